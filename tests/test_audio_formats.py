"""Formats that libsndfile does not know: the same samples as the source's, and a reason for every file that is not."""

import io
import re
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from media_files import LOSSLESS, LOSSY, Codec, add_sound, write_media, write_silent_ape, write_streams

from hf_utils import audio, sound_files
from hf_utils.ffmpeg_decoder import FFMPEG_SUFFIXES
from hf_utils.sound_check import AudioError
from hf_utils.sound_files import AUDIO_SUFFIXES

RATE = 48000  # so that Opus needs no other


def make_sweep(seconds: float = 1.0, channels: int = 1, rate: int = RATE) -> np.ndarray:
    """Rising tones and a little noise, float32 (T, C): no part is like another."""
    time = np.arange(round(seconds * rate)) / rate
    tones = [0.4 * np.sin(2 * np.pi * (200 * number + 1500 * time) * time) for number in range(1, channels + 1)]
    return (np.stack(tones, axis=1) + np.random.default_rng(0).normal(0, 0.01, (time.size, channels))).astype("f4")


SWEEP = make_sweep()


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_the_samples_that_were_written(tmp_path, name):
    path = write_media(tmp_path / name, SWEEP, RATE, LOSSLESS[name])
    samples, recording = audio.decode_with_remarks(path)
    assert recording.sample_rate == RATE and recording.remarks == ()
    np.testing.assert_array_equal(audio.to_pcm16(samples), audio.to_pcm16(SWEEP[:, 0]))
    assert audio.read_header(path) == (RATE, pytest.approx(1.0, abs=1e-6))


# Samples per frame, and where the music begins: raw AAC tells of no delay, and neither does MP2 to libsndfile. Of WMA,
# FFmpeg leaves out a delay that its own encoder does not have.
DELAYS = {"aac.m4a": (1024, 0), "x.aac": (1024, 1024), "x.wma": (2048, -2048), "opus.webm": (960, 0)}
DELAYS |= {"x.opus": (960, 0), "x.mp2": (1152, 481), "x.mp3": (1152, 0)}


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_formats_begin_and_end_where_the_music_does(tmp_path, name):
    samples = audio.decode(write_media(tmp_path / name, SWEEP, RATE, LOSSY[name]))[0]
    frame, delay = DELAYS[name]
    assert abs(samples.size - delay - RATE) < frame
    first = max(delay, 0)
    heard, written = samples[first : first + RATE // 2], SWEEP[first - delay :, 0][: RATE // 2]
    assert np.mean((heard - written) ** 2) < 0.01 * np.mean(written**2)


@pytest.mark.parametrize(
    ("codec", "step"),
    [
        (Codec("matroska", "pcm_u8", "u8"), 2**-7),
        (Codec("matroska", "pcm_s24le", "s32"), 2**-23),
        (Codec("matroska", "pcm_f32le", "flt"), 2**-24),
        (Codec("matroska", "pcm_f64le", "dbl"), 2**-24),
        (Codec("mp4", "alac", "s32p"), 2**-23),
        (Codec("wv", "wavpack", "fltp"), 2**-24),
        (LOSSLESS["x.tta"], 2**-15),
        (LOSSLESS["alac.m4a"], 2**-15),
    ],
    ids=lambda value: f"{value.encoder}-{value.samples}" if isinstance(value, Codec) else "",
)
def test_channels_are_averaged_in_every_kind_of_samples(tmp_path, codec, step):
    written = make_sweep(channels=2)
    samples = audio.decode(write_media(tmp_path / "x", written, RATE, codec))[0]
    np.testing.assert_allclose(samples, written.mean(axis=1), atol=step)


def test_a_file_is_read_alike_as_path_as_bytes_and_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(sound_files, "BLOCK_SAMPLES", 5000)
    path = write_media(tmp_path / "x.m4a", make_sweep(channels=2), RATE, LOSSY["aac.m4a"])
    whole = audio.load(path, 22050)
    np.testing.assert_array_equal(audio.load(path.read_bytes(), 22050), whole)
    for kept in (0, 1 << 24):
        monkeypatch.setattr(audio, "_KEPT_SAMPLES", kept)
        blocks = list(audio.inspect(path).blocks(22050))
        assert len(blocks) > 5 and max(map(len, blocks)) < 5000
        np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sound_files, "BLOCK_SAMPLES", 1 << 14)
    monkeypatch.setattr(audio, "_KEPT_SAMPLES", 1 << 14)
    path = write_media(tmp_path / "x.m4a", make_sweep(20.0, rate=16000), 16000, LOSSLESS["alac.m4a"])
    audio.read_header(path)  # what PyAV needs by itself
    tracemalloc.start()
    num_samples = sum(map(len, audio.inspect(path).blocks(8000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_samples == 20 * 8000
    assert peak < 5e5  # as floats, the file is 1.3 MB


def test_pictures_chapters_tags_and_other_streams_are_passed_over(tmp_path, caplog):
    other, codec = make_sweep()[::-1], LOSSLESS["alac.m4a"]
    path = tmp_path / "x.m4a"
    with av.open(str(path), "w", format="mp4") as output:
        output.metadata["title"] = "Caf\u00e9"
        chapter = {"id": 1, "start": 0, "end": 500, "time_base": Fraction(1, 1000), "metadata": {}}
        output.set_chapters([chapter])
        picture = output.add_stream("mjpeg", rate=1, width=16, height=16, pix_fmt="yuvj420p")
        picture.disposition = av.stream.Disposition.attached_pic
        streams = [add_sound(output, codec, 1, RATE) for _ in range(2)]
        streams[0].disposition, streams[1].disposition = 0, av.stream.Disposition.default
        output.mux(picture.encode(av.VideoFrame(16, 16, "yuvj420p")))
        output.mux(picture.encode(None))
        write_streams(output, streams, other, SWEEP)
    path.write_bytes(path.read_bytes().replace("Caf\u00e9".encode(), b"Caf\xe9 "))  # Latin-1, as old programs write
    with av.open(str(path), metadata_errors="replace") as made:
        assert len(made.streams.video) == 1 and len(made.chapters()) == 1 and "\ufffd" in made.metadata["title"]
    samples, recording = audio.decode_with_remarks(path)
    np.testing.assert_array_equal(audio.to_pcm16(samples), audio.to_pcm16(SWEEP[:, 0]))
    assert any("more than one recording" in remark and "2 of 2" in remark for remark in recording.remarks)
    assert "damaged" not in str(recording.remarks) and caplog.text == ""


def test_a_tag_may_come_first(tmp_path):
    tag = b"ID3\x03\x00\x00" + bytes([0, 0, 1, 2]) + bytes(130)
    for name, codec in (("x.aac", LOSSY["x.aac"]), ("x.tta", LOSSLESS["x.tta"])):
        path = write_media(tmp_path / name, SWEEP, RATE, codec)
        plain = audio.load(path, RATE)
        np.testing.assert_array_equal(audio.load(tag + path.read_bytes(), RATE), plain)


def test_monkeys_audio_is_read(tmp_path):
    path = write_silent_ape(tmp_path / "x.ape", 2, 44100)
    assert audio.read_header(path) == (44100, 2.0)
    with pytest.raises(AudioError, match=r"^silent \(read by FFmpeg's ape decoder\)"):
        audio.decode(path)


TRUNCATED = ["alac.m4a", "aac.m4a", "flac.mka", "opus.webm", "x.tta", "x.wma"]


@pytest.mark.parametrize("name", TRUNCATED)
def test_a_truncated_file_is_never_half_a_track_in_silence(tmp_path, name):
    sweep = make_sweep(3.0, rate=RATE)
    content = write_media(tmp_path / name, sweep, RATE, (LOSSLESS | LOSSY)[name]).read_bytes()
    samples, recording = audio.decode_with_remarks(content[: round(0.8 * len(content))])
    assert 1.5 * RATE < samples.size < 2.7 * RATE
    assert recording.remarks[0].startswith(f"incomplete: {samples.size / RATE:.1f} of 3.0 s can be read by FFmpeg's")
    with pytest.raises(AudioError, match=r"(incomplete: only|undecodable by).*FFmpeg's \w+ decoder"):
        audio.decode(content[: round(0.3 * len(content))])


def test_a_truncated_file_without_an_index_or_a_length_is_named(tmp_path):
    late_index = write_media(tmp_path / "x.m4a", SWEEP, RATE, LOSSY["aac.m4a"]._replace(container_options={}))
    with pytest.raises(AudioError, match="undecodable by FFmpeg: moov atom not found"):
        audio.decode(late_index.read_bytes()[:10_000])
    live = Codec("matroska", "flac", "s16", container_options={"live": "1"})
    content = write_media(tmp_path / "x.mka", SWEEP, RATE, live).read_bytes()
    assert audio.inspect(content).remarks == ("its header gives no length: read to the end",)
    assert "File ended prematurely" in str(audio.inspect(content[:-5000]).remarks)


@pytest.mark.parametrize("name", ["alac.m4a", "aac.m4a", "flac.mka", "x.wv", "x.tta", "x.aac", "x.wma"])
def test_damage_in_the_middle_is_remarked_with_the_decoder(tmp_path, name, caplog):
    content = bytearray(write_media(tmp_path / name, make_sweep(3.0), RATE, (LOSSLESS | LOSSY)[name]).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 600] = np.random.default_rng(0).bytes(600)
    remarks = audio.inspect(bytes(content)).remarks
    assert any(re.match("damaged, FFmpeg's|incomplete", remark) for remark in remarks), remarks
    assert audio.inspect(bytes(content)).remarks == remarks  # also the second time, though FFmpeg says the same
    assert caplog.text == ""


def test_a_stream_whose_parts_are_mostly_damaged_is_refused(tmp_path):
    content = bytearray(write_media(tmp_path / "x.aac", SWEEP, RATE, LOSSY["x.aac"]).read_bytes())
    starts = [i for i in range(len(content) - 1) if content[i] == 0xFF and content[i + 1] == 0xF1]
    for start in starts[5:]:
        content[start + 7 : start + 60] = bytes(53)
    with pytest.raises(AudioError, match=r"undecodable: \d+ of its \d+ packets \(read by FFmpeg's aac decoder"):
        audio.decode(bytes(content))


def test_a_stream_that_changes_its_rate_is_refused(tmp_path):
    both = [write_media(tmp_path / "x.aac", SWEEP, rate, LOSSY["x.aac"]).read_bytes() for rate in (RATE, 16000)]
    with pytest.raises(AudioError, match="its sampling rate or its channels change.*FFmpeg's aac decoder"):
        audio.decode(b"".join(both))


def test_lists_of_other_files_are_no_audio(tmp_path):
    music = write_media(tmp_path / "x.m4a", SWEEP, RATE, LOSSY["aac.m4a"])
    for text in (f"#EXTM3U\n#EXTINF:1,\n{music}\n", f"ffconcat version 1.0\nfile '{music}'\n", "[playlist]\n"):
        path = tmp_path / "list.m4a"
        path.write_text(text)
        with pytest.raises(AudioError, match="^undecodable: Format not recognised"):
            audio.decode(path)


def test_files_of_another_kind_or_without_sound_say_why(tmp_path):
    with av.open(str(tmp_path / "film.mp4"), "w", format="mp4") as output:
        picture = output.add_stream("mpeg4", rate=25, width=16, height=16, pix_fmt="yuv420p")
        output.mux(picture.encode(av.VideoFrame(16, 16, "yuv420p")))
        output.mux(picture.encode(None))
    with pytest.raises(AudioError, match="undecodable by FFmpeg: there is no sound in it"):
        audio.decode(tmp_path / "film.mp4")
    asf = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"
    for start in (b"MAC ", b"wvpk", b"MPCK", b"MP+\x07", asf, b"\x1a\x45\xdf\xa3", b"\xff\xf1"):
        with pytest.raises(AudioError, match="FFmpeg"):
            audio.decode(start + bytes(3000))
    music = write_media(tmp_path / "x.m4p", SWEEP, RATE, LOSSY["aac.m4a"]).read_bytes()
    for name in (b"drms", b"enca"):
        with pytest.raises(AudioError, match="copy-protected"):
            audio.decode(music.replace(b"mp4a", name))
    path = write_media(tmp_path / "x.wav", SWEEP, RATE, LOSSLESS["alac.m4a"])
    assert audio.inspect(path).remarks == ("its name says WAV: its content is MP4",)


def test_what_libsndfile_knows_is_read_by_it(tmp_path):
    for format in ("WAV", "FLAC", "MP3", "OGG", "AIFF", "AU", "CAF", "W64"):
        file = io.BytesIO()
        soundfile.write(file, SWEEP, RATE, format=format)
        assert audio.inspect(file.getvalue()).decoder == "libsndfile"
    assert {".m4a", ".wma", ".webm"} < FFMPEG_SUFFIXES < AUDIO_SUFFIXES
