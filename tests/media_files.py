"""Small files of the formats that people keep music in, written by PyAV. T samples, C channels."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

_LAYOUTS = {1: "mono", 2: "stereo"}


class Codec(NamedTuple):
    """FFmpeg's names for a container, an encoder and its samples, and the options of the last two."""

    container: str
    encoder: str
    samples: str
    options: dict[str, str] = {}
    container_options: dict[str, str] = {}


FAST_START = {"movflags": "+faststart"}  # the index first, so that a truncated file still has it
LOSSLESS = {
    "alac.m4a": Codec("ipod", "alac", "s16p", container_options=FAST_START),
    "flac.mp4": Codec("mp4", "flac", "s16"),
    "flac.mka": Codec("matroska", "flac", "s16"),
    "x.wv": Codec("wv", "wavpack", "s16p"),
    "x.tta": Codec("tta", "tta", "s16"),
    "pcm.caf": Codec("caf", "pcm_s16be", "s16"),
    "x.w64": Codec("w64", "pcm_s16le", "s16"),
    "x.aiff": Codec("aiff", "pcm_s16be", "s16"),
    "x.wav": Codec("wav", "pcm_s16le", "s16"),
    "x.flac": Codec("flac", "flac", "s16"),
    "x.au": Codec("au", "pcm_s16be", "s16"),
}
LOSSY = {
    "aac.m4a": Codec("ipod", "aac", "fltp", {"b": "96000"}, FAST_START),
    "x.aac": Codec("adts", "aac", "fltp", {"b": "96000"}),
    "x.wma": Codec("asf", "wmav2", "fltp", {"b": "96000"}),
    "opus.webm": Codec("webm", "libopus", "flt", {"b": "96000"}),
    "x.opus": Codec("ogg", "libopus", "flt", {"b": "96000"}),
    "x.mp2": Codec("mp2", "mp2", "s16", {"b": "128000"}),
    "x.mp3": Codec("mp3", "libmp3lame", "fltp", {"b": "128000"}),
}


def write_media(path: Path, samples: np.ndarray, rate: int, codec: Codec) -> Path:
    """Write samples (T, C) within full scale to a file; return its path."""
    with av.open(str(path), "w", format=codec.container, options=codec.container_options) as output:
        write_streams(output, [add_sound(output, codec, samples.shape[1], rate)], samples)
    return path


def add_sound(output, codec: Codec, num_channels: int, rate: int):
    """Return a new audio stream of an open container."""
    stream = output.add_stream(codec.encoder, rate=rate, layout=_LAYOUTS[num_channels], options=codec.options)
    stream.format = codec.samples
    return stream


def write_streams(output, streams: Sequence, *sounds: np.ndarray) -> None:
    """Encode samples (T, C) into each of the streams, one after the other."""
    for stream, samples in zip(streams, sounds, strict=True):
        rows = np.ascontiguousarray(samples.T, np.float32)
        frame = av.AudioFrame.from_ndarray(rows, format="fltp", layout=_LAYOUTS[samples.shape[1]])
        frame.sample_rate, frame.pts = stream.rate, 0
        output.mux(stream.encode(frame))  # in the encoder's kind of samples, rounded to the nearest step
        output.mux(stream.encode(None))


def write_silent_ape(path: Path, seconds: int, rate: int) -> Path:
    """Write a Monkey's Audio file of zeros, for which FFmpeg has no encoder: one frame that only says "silence"."""
    num_samples = seconds * rate
    frame = struct.pack("<II", 0x80000000, 3) + bytes(8)  # a checksum, whose top bit says that flags follow: silence
    descriptor = struct.pack("<4sHHIIIIIII16s", b"MAC ", 3990, 0, 52, 24, 4, 0, len(frame), 0, 0, bytes(16))
    header = struct.pack("<HHIIIHHI", 1000, 0, 73728 * 4, num_samples, 1, 16, 1, rate)
    path.write_bytes(descriptor + header + struct.pack("<I", 52 + 24 + 4) + frame)
    return path
