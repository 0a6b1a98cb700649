"""Audio: every format decodes to the same samples, every bad file says why, windows cover every sample."""

import io
import os
import tracemalloc

import numpy as np
import pytest
import soundfile

from hf_utils import audio
from hf_utils.audio import collect_remarks

RATE = 16000


def make_tone(seconds: float = 1.0, rate: int = RATE, hz: float = 440.0, peak: float = 0.5) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def make_file(samples: np.ndarray, rate: int = RATE, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **{"format": "WAV", **options})
    return file.getvalue()


def test_what_others_write_while_a_file_is_decoded_is_no_remark(capfd):
    remarks = []
    with collect_remarks(remarks):
        os.write(2, b"\nNote: Trying to resync...\nNote: Trying to resync...\n\rDecoding:  50%\n")
    assert remarks == ["Note: Trying to resync..."]
    assert capfd.readouterr().err.strip() == "Decoding:  50%"


def test_what_the_mp3_decoder_remarks_is_logged_under_the_name_of_the_file(capfd, caplog):
    whole = make_file(make_tone(3), format="MP3")
    audio.decode(whole, "whole")
    damaged = whole[: len(whole) // 2] + bytes(500) + whole[len(whole) // 2 :]
    samples, _ = audio.decode(damaged, "jazz.00054")
    audio.read_duration(damaged)
    assert samples.size > 2 * RATE
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("jazz.00054 may be damaged; its decoder says: ")
    assert "Illegal Audio-MPEG-Header" in caplog.text
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


def test_decode_joins_the_blocks_of_a_long_file(monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_FRAMES", 1000)
    samples = make_tone(1.23)
    decoded, _ = audio.decode(make_file(samples, subtype="FLOAT"))
    np.testing.assert_array_equal(decoded, samples)


def with_nan() -> np.ndarray:
    samples = make_tone()
    samples[100] = np.nan
    return samples


BAD_FILES = {
    "zero bytes": (b"", "empty"),
    "no frames": (make_file(np.zeros(0)), "empty"),
    "text": (b"<html>404 not found</html>" * 100, "undecodable: Format not recognised"),
    "noise": (np.random.default_rng(0).bytes(50_000), "undecodable"),
    "truncated FLAC": (make_file(make_tone(3), format="FLAC")[:5000], "undecodable"),
    "NaN": (make_file(with_nan(), subtype="FLOAT"), "not finite"),
    "0.2 s": (make_file(make_tone(0.2)), r"shorter than 0\.5 s \(0\.2 s\)"),
    "silent": (make_file(np.zeros(RATE)), "silent"),
    "opposite channels": (make_file(np.stack([make_tone(), -make_tone()], axis=1)), "silent"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("as_path", [False, True])
def test_bad_files_say_why(tmp_path, name, as_path):
    source, reason = BAD_FILES[name]
    if as_path:
        (tmp_path / "bad.wav").write_bytes(source)
        source = tmp_path / "bad.wav"
    with pytest.raises(audio.AudioError, match=f"^{reason}") as caught:
        audio.decode(source)
    assert str(tmp_path) not in str(caught.value)


def test_missing_files_folders_and_headerless_files_say_why(tmp_path):
    (tmp_path / "x.raw").write_bytes(bytes(range(256)) * 100)
    with pytest.raises(audio.AudioError, match="^missing$"):
        audio.decode(tmp_path / "none.wav")
    with pytest.raises(audio.AudioError, match="^unreadable"):
        audio.decode(tmp_path)
    with pytest.raises(audio.AudioError, match="^undecodable"):
        audio.decode(tmp_path / "x.raw")


def test_exactly_the_shortest_length_is_accepted():
    assert audio.decode(make_file(make_tone(audio.MIN_SECONDS)))[0].size == audio.MIN_SECONDS * RATE
    with pytest.raises(audio.AudioError, match="shorter"):
        audio.decode(make_file(make_tone(audio.MIN_SECONDS)[:-1]))


def test_duration_is_read_from_the_header(tmp_path):
    assert audio.read_duration(make_file(make_tone(1.5))) == 1.5
    assert audio.read_duration(b"nothing") == 0.0
    assert audio.read_duration(tmp_path / "none.wav") == 0.0


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
