"""Audio files that libsndfile does not know, as FFmpeg reads them. T samples, C channels.

PyAV carries FFmpeg's libraries; it is imported when the first such file is opened. Samples are those that the `ffmpeg`
program gives: what an encoder puts before the music is left out where the file tells of it. FFmpeg is never asked to
guess what a file is, and gets no file that begins otherwise than its format does: some of its formats are lists of
other files and addresses, which it would open.
"""

import contextlib
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from hf_utils.sound_check import (
    MAX_LOST,
    MIN_SECONDS,
    NO_LENGTH,
    AudioError,
    DecoderError,
    check_length,
    quote_decoder,
)


class _Container(NamedTuple):
    """A kind of file: its name, FFmpeg's name for it, a pattern that such files begin with, and their suffixes."""

    format: str
    demuxer: str
    beginning: bytes
    suffixes: set[str]


_CONTAINERS = (
    _Container("MP4", "mov", rb"....(ftyp|moov|mdat|free|skip|wide)", {".m4a", ".m4b", ".m4p", ".mp4", ".alac"}),
    _Container("AAC", "aac", rb"\xff[\xf0\xf1\xf8\xf9]", {".aac"}),
    _Container("Matroska", "matroska", rb"\x1a\x45\xdf\xa3", {".webm", ".mka"}),
    _Container("ASF", "asf", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", {".wma"}),
    _Container("APE", "ape", rb"MAC ", {".ape"}),
    _Container("WavPack", "wv", rb"wvpk", {".wv"}),
    _Container("TTA", "tta", rb"TTA1", {".tta"}),
    _Container("Musepack", "mpc8", rb"MPCK", {".mpc"}),
    _Container("Musepack", "mpc", rb"MP\+", {".mpc"}),
    # Of these, what libsndfile refuses: other codecs in them.
    _Container("WAV", "wav", rb"RIFF....WAVE", {".wav"}),
    _Container("W64", "w64", rb"riff\x2e\x91\xcf\x11", {".w64"}),
    _Container("AIFF", "aiff", rb"FORM....AIF[FC]", {".aif", ".aiff"}),
    _Container("CAF", "caf", rb"caff", {".caf"}),
    _Container("OGG", "ogg", rb"OggS", {".ogg", ".oga", ".opus"}),
)
FFMPEG_SUFFIXES = frozenset().union(*(container.suffixes for container in _CONTAINERS))
# Of a stream of frames without a header, FFmpeg only estimates the length.
_WITHOUT_LENGTH = {"aac"}
# What MP4 files call sound that needs a key.
_ENCRYPTED = {"drms", "enca"}

# The object in an ASF file that states its length in units of 100 ns, how much of that is buffering, in ms, and
# whether both are void.
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_LENGTH = struct.Struct("<48xQ8xQI")
_ASF_HEADER_BYTES = 1 << 16
_LONGEST_BEGINNING = 16


def find_container(file: BinaryIO) -> _Container | None:
    """Return what kind of file it is by its first bytes, behind a tag that may come first; None for no known kind."""
    file.seek(0)
    tag = file.read(10)
    # The size of an ID3 tag has 7 bits in each byte.
    size = sum(byte << 7 * place for place, byte in enumerate(reversed(tag[6:]))) + 10 if tag[:3] == b"ID3" else 0
    file.seek(size)
    beginning = file.read(_LONGEST_BEGINNING)
    file.seek(0)
    return next((known for known in _CONTAINERS if re.match(known.beginning, beginning, re.DOTALL)), None)


class FfmpegSound:
    """An open file that FFmpeg reads; see `sound_files.Sound`. Parts that cannot be decoded are passed over.

    Raises:
        AudioError: FFmpeg cannot read it, or there is no sound in it.
    """

    def __init__(self, file: BinaryIO, container: _Container):
        import av

        self._av, self._container, self._lines = av, container, []
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)  # a line may be the last one of the file before
        with contextlib.ExitStack() as undo:
            try:
                with self._listen():
                    # Tags are often in old encodings.
                    self._opened = av.open(file, format=container.demuxer, metadata_errors="replace")
            except (av.FFmpegError, OSError) as error:
                raise AudioError(f"undecodable by FFmpeg: {self._explain(error)}") from None
            undo.callback(self._opened.close)
            self.format, self.suffixes = container.format, container.suffixes
            self._stream, self.remarks = self._choose_stream()
            codec = self._stream.codec_context
            if codec is None:
                raise AudioError("undecodable by FFmpeg: it has no decoder for this sound")
            if codec.codec_tag in _ENCRYPTED:  # FFmpeg would take the cipher for music
                raise AudioError("undecodable by FFmpeg: copy-protected")
            codec.options = {"err_detect": "crccheck"}
            self.decoder = f"FFmpeg's {codec.name} decoder"
            self.stated_seconds = self._find_length(file)
            self._num_packets = self._num_failed = 0
            self._frames = self._decode()
            undo.callback(self._frames.close)
            with self._listen():
                self._next = next(self._frames, None)
            if self._next is None:
                reason = self._complaints()[0] if self._complaints() else "there is no sound in it"
                raise AudioError(f"undecodable by {self.decoder}: {reason}")
            # Headers of AAC give half the rate at times.
            self.sample_rate, self.num_channels = self._next.sample_rate, self._next.layout.nb_channels
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Let go of the decoder."""
        self._undo.close()

    def read(self, num_frames: int) -> np.ndarray:
        """Return the next samples, float32 (T, C): at least `num_frames`, or what is left; none at the end.

        Raises:
            AudioError: the sampling rate or the channels change.
        """
        blocks, count = [np.zeros((0, self.num_channels), np.float32)], 0
        with self._listen():
            while self._next is not None and count < num_frames:
                if (self._next.sample_rate, self._next.layout.nb_channels) != (self.sample_rate, self.num_channels):
                    raise AudioError("its sampling rate or its channels change on the way")
                blocks.append(_to_float(self._next.to_ndarray(), self.num_channels, self._next.format.is_planar))
                count += len(blocks[-1])
                self._next = next(self._frames, None)
        return np.concatenate(blocks)

    def conclude(self, num_samples: int, error: DecoderError | None) -> list[str]:
        """Return remarks on what is missing of the length that the header states, and on damage.

        Raises:
            AudioError: little of it can be read, or more than it states is there.
        """
        if self._num_failed > MAX_LOST * self._num_packets:
            raise AudioError(f"undecodable: {self._num_failed} of its {self._num_packets} packets")
        damage = quote_decoder(self.decoder, self._complaints())
        seconds, stated_seconds = num_samples / self.sample_rate, self.stated_seconds
        if stated_seconds is None:
            return [NO_LENGTH, *damage]
        if seconds > stated_seconds + MIN_SECONDS:
            raise AudioError(
                f"its header contradicts its content: it states {stated_seconds:.1f} s of sound, and {seconds:.1f} s "
                "are there"
            )
        return [*(f"{remark} by {self.decoder}" for remark in check_length(seconds, stated_seconds)), *damage]

    def _choose_stream(self):
        """Return the audio stream that the file declares its default one, else the first; and remarks."""
        streams, default = self._opened.streams.audio, self._av.stream.Disposition.default
        if not streams:
            raise AudioError("undecodable by FFmpeg: there is no sound in it")
        chosen = next((stream for stream in streams if stream.disposition & default), streams[0])
        number = f"number {streams.index(chosen) + 1} of {len(streams)}"
        return chosen, [f"more than one recording in it, one is read: {number}"] if len(streams) > 1 else []

    def _find_length(self, file: BinaryIO) -> float | None:
        """Return the length of the stream in seconds that the header states, or None where it states none."""
        if self._container.demuxer in _WITHOUT_LENGTH:
            return None
        if self._container.demuxer == "asf":
            return _read_asf_length(file)
        if self._stream.duration is not None:
            return float(self._stream.duration * self._stream.time_base)
        # Of the whole file, which is as long as its longest stream.
        length = self._opened.duration
        is_alone = len(self._opened.streams.audio) + len(self._opened.streams.video) == 1
        return length / self._av.time_base if length and is_alone else None

    def _decode(self) -> Iterator:
        """Yield the frames of the stream."""
        try:
            for packet in self._opened.demux(self._stream):
                self._num_packets += 1
                try:
                    yield from packet.decode()
                except self._av.FFmpegError:
                    self._num_failed += 1
        except (self._av.FFmpegError, OSError) as error:
            self._lines.append(("", error.strerror))

    @contextlib.contextmanager
    def _listen(self) -> Iterator[None]:
        """Keep what FFmpeg says meanwhile, in any thread, as (who says it, line)."""
        with self._av.logging.Capture(local=False) as logs:
            try:
                yield
            finally:
                self._lines += [(name, line.strip()) for _, name, line in logs]

    def _explain(self, error: Exception) -> str:
        return self._lines[-1][1] if self._lines else error.strerror

    def _complaints(self) -> list[str]:
        """Return what is wrong with the stream, as FFmpeg says; not what it says of pictures and other streams."""
        names = {"", self._container.demuxer, self._stream.codec_context.name}
        lines = [line for name, line in self._lines if name.partition(",")[0] in names]
        return lines or ["invalid data"] * bool(self._num_failed)


def _to_float(samples: np.ndarray, num_channels: int, is_planar: bool) -> np.ndarray:
    """Return the samples of a frame, (C, T) or in turn (1, T * C), as float32 (T, C) with a full scale of 1.0."""
    samples = samples.T if is_planar else samples.reshape(-1, num_channels)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    full_scale = np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    scaled = samples.astype(np.float32) / full_scale
    return scaled - 1 if samples.dtype.kind == "u" else scaled


def _read_asf_length(file: BinaryIO) -> float | None:
    """Return the length in seconds that the header of an ASF file states: FFmpeg estimates that of a truncated one."""
    place = file.tell()
    file.seek(0)
    header = file.read(_ASF_HEADER_BYTES)
    file.seek(place)
    start = header.find(_ASF_PROPERTIES) + len(_ASF_PROPERTIES)
    if start < len(_ASF_PROPERTIES) or start + _ASF_LENGTH.size > len(header):
        return None
    length, buffered_ms, flags = _ASF_LENGTH.unpack_from(header, start)
    return None if flags & 1 else max(length / 1e7 - buffered_ms / 1e3, 0.0) or None
