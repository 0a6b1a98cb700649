"""Audio: every format decodes to the same samples, every bad file says why, windows cover every sample."""

import io
import os
import re
import tracemalloc

import numpy as np
import pytest
import soundfile

from hf_utils import audio, sound_files
from hf_utils.sndfile_decoder import collect_decoder_lines
from hf_utils.sound_check import MIN_SECONDS, AudioError

RATE = 16000


def make_tone(seconds: float = 1.0, rate: int = RATE, hz: float = 440.0, peak: float = 0.5) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def make_file(samples: np.ndarray, rate: int = RATE, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **{"format": "WAV", **options})
    return file.getvalue()


def test_what_others_write_while_a_file_is_decoded_is_no_remark(capfd):
    lines = []
    with collect_decoder_lines(lines):
        os.write(2, b"\nNote: Trying to resync...\n\rDecoding:  50%\n")
    assert lines == ["Note: Trying to resync..."]
    assert capfd.readouterr().err.strip() == "Decoding:  50%"


def test_what_the_mp3_decoder_remarks_is_logged_under_the_name_of_the_file(capfd, caplog):
    whole = make_file(make_tone(3), format="MP3")
    audio.decode(whole, "whole")
    damaged = whole[: len(whole) // 2] + bytes(500) + whole[len(whole) // 2 :]
    samples, _ = audio.decode(damaged, "jazz.00054")
    audio.read_header(damaged)
    assert samples.size > 2 * RATE
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("jazz.00054: ")
    assert "damaged" in caplog.text and "Illegal Audio-MPEG-Header" in caplog.text
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("format", "subtype", "tolerance"),
    [
        ("WAV", "PCM_16", 4e-5),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("FLAC", "PCM_16", 4e-5),
        ("FLAC", "PCM_24", 1e-6),
        ("AU", "PCM_16", 4e-5),
        ("AIFF", "PCM_16", 4e-5),
        ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.1),
        ("MP3", "MPEG_LAYER_III", 0.05),
    ],
)
@pytest.mark.parametrize("as_path", [False, True])
def test_decode_reads_every_format_from_bytes_and_path(tmp_path, format, subtype, tolerance, as_path):
    samples = make_tone()
    source = make_file(samples, format=format, subtype=subtype)
    if as_path:
        path = tmp_path / f"Ton für {format}.{format.lower()}"
        path.write_bytes(source)
        source = path
    decoded, rate = audio.decode(source)
    assert decoded.dtype == np.float32 and decoded.ndim == 1
    assert rate in (RATE, 48000)  # Opus files are at 48 kHz by definition of the format
    middle = slice(RATE // 4, RATE // 2)  # codecs have edges
    if rate == RATE:
        np.testing.assert_allclose(decoded[middle], samples[middle], atol=tolerance)
    else:
        assert abs(audio.rms_db(decoded) - audio.rms_db(samples)) < 1


def test_decode_averages_the_channels():
    left, right = make_tone(hz=200), make_tone(hz=300)
    decoded, _ = audio.decode(make_file(np.stack([left, right], axis=1), subtype="FLOAT"))
    np.testing.assert_allclose(decoded, (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("num_channels", [1, 2, 3, 7])
def test_channels_are_averaged_as_numpy_does(num_channels):
    samples = np.random.default_rng(0).uniform(-1, 1, (RATE, num_channels)).astype(np.float32)
    decoded, _ = audio.decode(make_file(samples, subtype="FLOAT"))
    np.testing.assert_array_equal(decoded, samples.mean(axis=1))


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "_KEPT_SAMPLES", 0)
    path = tmp_path / "growing.wav"
    for now in (make_tone(1), make_tone(3)):
        path.write_bytes(make_file(make_tone(2)))
        recording = audio.inspect(path)
        path.write_bytes(make_file(now))
        with pytest.raises(AudioError, match="changed"):
            list(recording.blocks(RATE))


def test_decode_joins_the_blocks_of_a_long_file(monkeypatch):
    monkeypatch.setattr(sound_files, "BLOCK_SAMPLES", 1000)
    samples = make_tone(1.23)
    decoded, _ = audio.decode(make_file(samples, subtype="FLOAT"))
    np.testing.assert_array_equal(decoded, samples)


def with_nan() -> np.ndarray:
    samples = make_tone()
    samples[100] = np.nan
    return samples


def make_music(seconds: float = 10.0) -> np.ndarray:
    """Tones and noise that change all the time, as float32 with a peak of 0.5."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).standard_normal(time.size)
    music = np.sin(2 * np.pi * 220 * time) + np.sin(2 * np.pi * (300 + 20 * time) * time) + 0.3 * noise
    return (0.5 * music / np.abs(music).max()).astype(np.float32)


MUSIC = make_music()


def among_zeros(sounding_seconds: float, seconds: float = 10.0) -> np.ndarray:
    return np.where(np.arange(round(seconds * RATE)) < sounding_seconds * RATE, make_music(seconds), 0)


def stereo(left: np.ndarray, right: np.ndarray) -> bytes:
    return make_file(np.stack([left, right], axis=1))


def with_wav_size(size: int, samples: np.ndarray = MUSIC) -> bytes:
    """A WAV file whose header states `size` bytes of samples."""
    file = make_file(samples, subtype="PCM_16")
    place = file.index(b"data") + 4
    return file[:place] + size.to_bytes(4, "little") + file[place + 4 :]


def with_flac_length(num_samples: int) -> bytes:
    """A FLAC file whose header states `num_samples`."""
    file = bytearray(make_file(MUSIC, format="FLAC"))
    fields = int.from_bytes(file[18:26], "big")  # rate, channels, bits, and 36 bits of length
    file[18:26] = (fields >> 36 << 36 | num_samples).to_bytes(8, "big")
    return bytes(file)


def first_part(share: float, **options) -> bytes:
    file = make_file(MUSIC, **options)
    return file[: round(share * len(file))]


_NOISE = np.random.default_rng(1)
BAD_FILES = {
    "zero bytes": (b"", "empty"),
    "no frames": (make_file(np.zeros(0)), "empty"),
    "text": (b"<html>404 not found</html>" * 100, "undecodable: Format not recognised"),
    "noise": (np.random.default_rng(0).bytes(50_000), "undecodable"),
    "truncated FLAC": (make_file(make_tone(3), format="FLAC")[:5000], "undecodable"),
    "NaN": (make_file(with_nan(), subtype="FLOAT"), "not finite"),
    "0.2 s": (make_file(make_tone(0.2)), r"shorter than 0\.5 s \(0\.2 s\)"),
    "silent": (make_file(np.zeros(RATE)), "silent"),
    "dither": (make_file(_NOISE.integers(-1, 2, RATE).astype(np.int16)), "silent"),
    "opposite channels": (stereo(make_tone(), -make_tone()), "silent as mono: its channels cancel"),
    "nearly opposite channels": (stereo(MUSIC, -0.8 * MUSIC), "silent as mono: its channels cancel"),
    "opposite but for noise": (stereo(MUSIC, _NOISE.normal(0, 0.01, MUSIC.size) - MUSIC), "silent as mono"),
    "opposite most of the time": (
        stereo(MUSIC, np.where(np.arange(MUSIC.size) < 6 * RATE, -1, 1) * MUSIC),
        "silent as",
    ),
    "opposite pairs": (make_file(np.stack([MUSIC, -MUSIC, MUSIC, -MUSIC], axis=1)), "silent as mono"),
    "constant": (make_file(np.full(RATE, 0.5)), "constant"),
    "negative constant": (make_file(np.full(RATE, -0.01)), "constant"),
    "constant and dither": (make_file(0.5 + _NOISE.uniform(-1, 1, RATE) / 32768), "constant"),
    "constant and faint noise": (make_file(0.5 + _NOISE.uniform(-3e-4, 3e-4, RATE), subtype="PCM_24"), "constant"),
    "two constants": (stereo(np.full(RATE, 0.5), np.full(RATE, 0.3)), "constant"),
    "mostly zeros": (make_file(among_zeros(1, 30)), r"mostly silent \(29\.0 of 30\.0 s\)"),
    "a little more silent than not": (make_file(among_zeros(4.5)), "mostly silent"),
    "mostly hiss": (make_file(among_zeros(2) + _NOISE.uniform(-1e-4, 1e-4, MUSIC.size), subtype="PCM_24"), "mostly"),
    "percent": (make_file(100 * MUSIC, subtype="FLOAT"), "far above full scale"),
    "32-bit numbers": (make_file(2.0**31 * MUSIC.astype(float), subtype="DOUBLE"), "far above full scale"),
    "WAV of 5 s, states 2 s": (with_wav_size(64_000, MUSIC[: 5 * RATE]), "its header contradicts its content.* 2.0 s"),
    "FLAC of 10 s, states 5 s": (with_flac_length(5 * RATE), "its header contradicts its content.* 5.0 s"),
    "FLAC of 10 s, states 40 s": (with_flac_length(40 * RATE), "undecodable: only 10.0 of 40.0 s"),
    "a third of a WAV": (first_part(1 / 3), "incomplete: only 3.3 of 10.0 s"),
    "a third of an AIFF": (first_part(1 / 3, format="AIFF"), "incomplete: only 3.3 of 10.0 s"),
    "a third of an AU": (first_part(1 / 3, format="AU"), "incomplete: only 3.3 of 10.0 s"),
    "a third of an MP3": (first_part(1 / 3, format="MP3"), "incomplete: only 3.. of 10.0 s"),
    "a third of a FLAC": (first_part(1 / 3, format="FLAC"), "undecodable: only [23].. of 10.0 s"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "undecodable: .*git lfs pull"),
    "M4A": (b"\0\0\0\x20ftypM4A " + bytes(5000), "undecodable by FFmpeg: moov atom not found"),
    "rate": (make_file(MUSIC, rate=100), "its header states a sampling rate of 100 Hz"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("as_path", [False, True])
def test_bad_files_say_why(tmp_path, name, as_path):
    source, reason = BAD_FILES[name]
    if as_path:
        (tmp_path / "bad.wav").write_bytes(source)
        source = tmp_path / "bad.wav"
    for read in (audio.decode, audio.inspect):
        with pytest.raises(audio.AudioError, match=f"^{reason}") as caught:
            read(source)
        assert str(tmp_path) not in str(caught.value)


# File, remark, and what its samples should be; None where a decoder's loss decides about them.
REMARKABLE_FILES = {
    "16-bit numbers": (make_file(16384 * MUSIC, subtype="FLOAT"), "16-bit numbers in a float file", MUSIC / 2),
    "16-bit numbers, loud": (
        make_file(65600 * MUSIC, subtype="DOUBLE"),
        "16-bit numbers.*above full scale",
        2 * MUSIC,
    ),
    "peak of 3": (
        make_file(6 * MUSIC, subtype="FLOAT"),
        r"above full scale, lowered as a whole: by 9\.5 dB",
        2 * MUSIC,
    ),
    "offset": (make_file(0.2 * MUSIC + 0.4, subtype="FLOAT"), "offset", 0.2 * MUSIC - np.mean(0.2 * MUSIC)),
    "quiet": (make_file(MUSIC / 500, subtype="FLOAT"), r"very quiet: peak -60 dBFS", MUSIC / 500),
    "a third silent": (make_file(among_zeros(6.7), subtype="FLOAT"), r"silence: 3\.3 of 10\.0 s", among_zeros(6.7)),
    "WAV states 0 bytes": (with_wav_size(0), "its header gives no length: read to the end", MUSIC),
    "WAV written to a pipe": (with_wav_size(0xFFFFFFFF), "its header gives no length", MUSIC),
    "FLAC states nothing": (with_flac_length(0), "its header gives no length", MUSIC),
    "0.9 of a WAV": (first_part(0.9), r"incomplete: 9\.0 of 10\.0 s", MUSIC),
    "0.9 of a FLAC": (first_part(0.9, format="FLAC"), r"incomplete: 8\.. of 10\.0 s", MUSIC),
    "0.9 of an MP3": (first_part(0.9, format="MP3"), r"incomplete: [89]\.. of 10\.0 s", None),
    "0.9 of an OGG": (first_part(0.9, format="OGG"), "may be incomplete: its end mark is missing", None),
    "WAV states a little more": (with_wav_size(400_000), r"incomplete: 10\.0 of 12\.5 s", MUSIC),
}


@pytest.mark.parametrize("name", REMARKABLE_FILES)
@pytest.mark.parametrize(("as_path", "kept"), [(False, 0), (True, 0), (True, 1 << 24)])
def test_what_is_repaired_is_said_and_is_the_same_by_every_way_of_reading(
    tmp_path, caplog, monkeypatch, name, as_path, kept
):
    monkeypatch.setattr(audio, "_KEPT_SAMPLES", kept)
    source, remark, expected = REMARKABLE_FILES[name]
    if as_path:
        (tmp_path / "x.bin").write_bytes(source)
        source = tmp_path / "x.bin"
    samples, rate = audio.decode(source, "my name")
    [message] = caplog.messages
    assert re.match(f"my name: .*{remark}", message), message
    assert rate == RATE and np.abs(samples).max() <= 1
    if expected is not None:
        assert samples.size >= 8 * RATE
        np.testing.assert_allclose(samples, expected[: samples.size], atol=4e-5)
    for to_rate in (RATE, 11025):
        recording = audio.inspect(source)
        blocks = np.concatenate(list(recording.blocks(to_rate)))
        np.testing.assert_array_equal(blocks, audio.load(source, to_rate))
        decoded, judged = audio.decode_with_remarks(source)
        np.testing.assert_array_equal(decoded, samples)
        assert judged == recording and "; ".join(judged.remarks) in message


@pytest.mark.parametrize("suffix", ["mp3", "flac", "ogg"])
def test_content_decides_and_a_name_that_says_otherwise_is_remarked(tmp_path, suffix):
    right, wrong = tmp_path / f"x.{suffix}", tmp_path / "x.wav"
    for path in (right, wrong):
        path.write_bytes(make_file(MUSIC, format=suffix.upper()))
    assert audio.inspect(right).remarks == ()
    assert audio.inspect(wrong).remarks == (f"its name says WAV: its content is {suffix.upper()}",)


ORDINARY_FILES = {
    "tags behind the samples": make_file(MUSIC) + b"LIST\x08\0\0\0INFOabcd" + b"TAG" + bytes(125),
    "two unrelated channels": make_file(_NOISE.normal(0, 0.1, (5 * RATE, 2))),
    "eight unrelated channels": make_file(_NOISE.normal(0, 0.1, (5 * RATE, 8))),
    "wide stereo": stereo(MUSIC, 0.5 * MUSIC + _NOISE.normal(0, 0.2, MUSIC.size)),
    "one silent channel": stereo(MUSIC, 0 * MUSIC),
    "pauses": make_file(np.where(np.arange(MUSIC.size) % RATE < 0.05 * RATE, 0, MUSIC)),
    "fades": make_file(np.linspace(0, 1, MUSIC.size) ** 2 * MUSIC),
    "small offset": make_file(0.8 * MUSIC + 0.02),
    "full scale": make_file(2 * MUSIC, subtype="FLOAT"),
    "8 kHz": make_file(MUSIC, rate=8000),
    "96 kHz": make_file(MUSIC, rate=96_000),
    "short MP3": make_file(MUSIC[:RATE], format="MP3"),
    "bass": make_file(make_tone(5, hz=30, peak=0.01)),
}


@pytest.mark.parametrize("name", ORDINARY_FILES)
def test_nothing_is_remarked_on_ordinary_files(name):
    assert audio.inspect(ORDINARY_FILES[name]).remarks == ()


def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sound_files, "BLOCK_SAMPLES", 1 << 18)
    monkeypatch.setattr(audio, "_KEPT_SAMPLES", 1 << 20)
    path, minutes = tmp_path / "long.wav", 10
    soundfile.write(path, np.tile((8000 * MUSIC).astype(np.int16)[:, None], (6 * minutes, 2)), RATE)
    tracemalloc.start()
    recording = audio.inspect(path)
    num_samples = sum(len(block) for block in recording.blocks(RATE // 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert recording.num_samples == 2 * num_samples == minutes * 60 * RATE
    assert peak < 20e6  # as floats, the file is 77 MB, and its mean 38 MB


def test_missing_files_folders_and_headerless_files_say_why(tmp_path):
    (tmp_path / "x.raw").write_bytes(bytes(range(256)) * 100)
    with pytest.raises(audio.AudioError, match="^missing$"):
        audio.decode(tmp_path / "none.wav")
    with pytest.raises(audio.AudioError, match="^unreadable"):
        audio.decode(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(audio.AudioError, match="^unreadable"):
        audio.decode(tmp_path / "pipe.wav")
    with pytest.raises(audio.AudioError, match="^undecodable"):
        audio.decode(tmp_path / "x.raw")


def test_exactly_the_shortest_length_is_accepted():
    assert audio.decode(make_file(make_tone(MIN_SECONDS)))[0].size == MIN_SECONDS * RATE
    with pytest.raises(audio.AudioError, match="shorter"):
        audio.decode(make_file(make_tone(MIN_SECONDS)[:-1]))


def test_duration_is_read_from_the_header(tmp_path):
    assert audio.read_header(make_file(make_tone(1.5)))[1] == 1.5
    assert audio.read_header(b"nothing") == (0, 0.0)
    assert audio.read_header(tmp_path / "none.wav") == (0, 0.0)


@pytest.mark.parametrize("to_rate", [8000, 16000, 22050, 44100])
def test_resampling_keeps_a_tone(to_rate):
    resampled = audio.load(make_file(make_tone(2.0), subtype="FLOAT"), to_rate)
    expected = make_tone(2.0, to_rate)
    assert resampled.dtype == np.float32 and abs(resampled.size - expected.size) <= 1
    middle = slice(to_rate // 2, to_rate)
    np.testing.assert_allclose(resampled[middle], expected[middle], atol=1e-3)


def test_pcm16_is_exact_for_16_bit_samples_and_clips_beyond_full_scale():
    every_step = np.arange(-32768, 32768).astype(np.int16)
    np.testing.assert_array_equal(audio.to_pcm16(audio.from_pcm16(every_step)), every_step)
    beyond = np.array([1.0, 1.5, 100.0, -1.0, -1.5, 0.4 / 32768, 0.6 / 32768], np.float32)
    assert audio.to_pcm16(beyond).tolist() == [32767, 32767, 32767, -32768, -32768, 0, 1]


def test_flac_round_trip_is_exact_in_16_bits():
    samples = make_tone(peak=1.0)
    decoded, rate = audio.decode(audio.encode_flac(samples, 22050))
    assert rate == 22050
    np.testing.assert_array_equal(audio.to_pcm16(decoded), audio.to_pcm16(samples))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (make_tone().astype(np.float64), "float32"),
        (np.zeros((2, 100), np.float32), r"\(2, 100\)"),
        (with_nan(), "finite"),
        (make_tone(peak=1.1), "peak of 1.1"),
    ],
)
def test_encode_flac_refuses_what_it_would_have_to_change(samples, message):
    with pytest.raises(ValueError, match=message):
        audio.encode_flac(samples, RATE)


def test_hash_is_of_the_recording_not_of_the_file():
    samples = audio.from_pcm16(audio.to_pcm16(make_tone()))
    steps = audio.to_pcm16(samples)  # written as integers: libsndfile truncates floats for WAV and rounds for FLAC
    hashes = {
        audio.hash_samples(audio.decode(make_file(steps, format=f, subtype="PCM_16"))[0])
        for f in ("WAV", "FLAC", "AU")
    }
    assert hashes == {audio.hash_samples(samples)}
    changed = samples.copy()
    changed[5] += 1 / 32768
    assert audio.hash_samples(changed) not in hashes


def test_window_starts_cover_every_sample_once_or_more():
    """Brute force over all small sizes: covered, in order, no duplicates, inside the clip, no two hops skipped."""
    for num_samples in range(1, 24):
        for window in range(1, 12):
            for hop in range(1, window + 1):
                starts = audio.window_starts(num_samples, window, hop)
                assert starts[0] == 0 and starts == sorted(set(starts))
                assert set(range(num_samples)) <= {s + i for s in starts for i in range(window)}
                assert all(right - left <= hop for left, right in zip(starts, starts[1:], strict=False))
                if num_samples >= window:
                    assert starts[-1] + window == num_samples
                else:
                    assert starts == [0]


@pytest.mark.parametrize("sizes", [(0, 4, 2), (10, 4, 0), (10, 4, 5), (10, 0, 0)])
def test_window_starts_refuses_gaps(sizes):
    with pytest.raises(ValueError, match="hop_samples"):
        audio.window_starts(*sizes)


def test_cut_window_repeats_the_clip_and_never_pads():
    samples = np.arange(1, 6, dtype=np.float32)
    assert audio.cut_window(samples, 1, 3).tolist() == [2, 3, 4]
    assert audio.cut_window(samples, 0, 12).tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]
    assert audio.cut_window(samples, 3, 4).tolist() == [4, 5, 1, 2]
    window = audio.cut_window(samples, 0, 5)
    window[:] = 0
    assert samples.tolist() == [1, 2, 3, 4, 5]
    for start in (-1, 5):
        with pytest.raises(ValueError, match="start"):
            audio.cut_window(samples, start, 2)


@pytest.mark.parametrize(("window", "hop"), [(1, 1), (4, 3), (5, 5), (7, 2), (40, 11)])
def test_windows_of_a_stream_are_those_of_the_whole_clip(window, hop):
    random = np.random.default_rng(0)
    for num_samples in range(1, 60):
        samples = np.arange(num_samples, dtype=np.float32)
        cuts = np.sort(random.integers(0, num_samples + 1, 4))
        found = list(audio.stream_windows(np.split(samples, cuts), window, hop))
        assert [start for start, _, _ in found] == audio.window_starts(num_samples, window, hop)
        for start, end, cut in found:
            assert end == min(start + window, num_samples)
            assert np.array_equal(cut, audio.cut_window(samples, start, window))


def test_a_stream_is_not_held_in_memory():
    blocks = (np.zeros(10_000, np.float32) for _ in range(500))  # 20 MB
    tracemalloc.start()
    try:
        assert sum(1 for _ in audio.stream_windows(blocks, 4000, 2000)) == 2499
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("sizes", [(4, 0), (4, 5)])
def test_a_stream_without_samples_or_with_gaps_is_refused(sizes):
    with pytest.raises(ValueError, match="hop_samples"):
        next(audio.stream_windows(iter([np.ones(10)]), *sizes))
    with pytest.raises(ValueError, match="num_samples=0"):
        next(audio.stream_windows([], 4, 2))


def test_rms_db():
    assert audio.rms_db(np.ones(10, np.float32)) == 0
    assert audio.rms_db(make_tone(peak=0.1)) == pytest.approx(-20 - 3.0103, abs=1e-3)
    assert audio.rms_db(np.zeros(10, np.float32)) == -np.inf
    assert audio.rms_db(np.zeros(0, np.float32)) == -np.inf


def test_real_clips_decode(gtzan_mini):
    paths = sorted(gtzan_mini.rglob("*.00000.flac"))
    assert len(paths) == 10
    for path in paths:
        samples, rate = audio.decode(path)
        assert rate == 22050 and 14 <= samples.size / rate <= 21
        assert -50 < audio.rms_db(samples) < 0
