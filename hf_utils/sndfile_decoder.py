"""Audio files as libsndfile reads them, and where their headers and their content disagree.

T samples, C channels.
"""

import contextlib
import io
import mmap
import os
import re
import struct
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile

from hf_utils.sound_check import MIN_SECONDS, NO_LENGTH, AudioError, DecoderError, check_length, quote_decoder

# The suffixes of the formats that libsndfile names so.
_SUFFIXES = {
    **dict.fromkeys(("WAV", "WAVEX", "RF64"), {".wav"}),
    "FLAC": {".flac"},
    "MP3": {".mp3", ".mp2"},
    "OGG": {".ogg", ".oga", ".opus"},
    "AIFF": {".aif", ".aiff"},
    "AU": {".au"},
    "CAF": {".caf"},
    "W64": {".w64"},
}
SNDFILE_SUFFIXES = frozenset().union(*_SUFFIXES.values())

# In libsndfile's log of a header: what it states, and what is there, in bytes or frames.
_STATED = re.compile(
    r"(?:data|Data Size)\s*: (\d+) \(should be (\d+)\)|\((\d+)\) not equal to frame.*?\((\d+)\)", re.S
)
_NO_END_MARK = re.compile(r"lacks an end-of-stream bit|without an End-Of-Stream flag")
_HOLES = re.compile(r"Corrupted bitstream|reports a hole")
# What writers state that do not know the length yet: this many bytes or more, or as many frames as can be counted.
_UNKNOWN_BYTES, _UNKNOWN_FRAMES = 0x7FFFF000, 1 << 48
# What is left behind the end of a whole file: what the decoder has read ahead, or a small share.
_NEGLIGIBLE_SHARE = 0.02
_FLAC_READS_AHEAD = 1 << 15

# The MP3 decoder's, such as "Note: Trying to resync..." and "[src/libmpg123/id3.c:...] error: ...".
_DECODER_LINE = re.compile(r"(Note|Warning): |\[.*libmpg123")


class SndfileSound:
    """An open file that libsndfile knows; see `sound_files.Sound`.

    Raises:
        DecoderError: libsndfile does not know it.
        AudioError: its header contradicts its content.
    """

    decoder = "libsndfile"

    def __init__(self, file: BinaryIO):
        self.remarks, readable = _check_wav_header(file)
        self._file, self._lines = file, []
        try:
            with collect_decoder_lines(self._lines):
                self._sound = soundfile.SoundFile(readable)
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless file, known by its name
            raise DecoderError(_explain(error)) from None
        self.format, self.suffixes = self._sound.format, _SUFFIXES.get(self._sound.format)
        self.sample_rate, self.num_channels = self._sound.samplerate, self._sound.channels
        frames = self._sound.frames
        self.stated_seconds = frames / self.sample_rate if frames < _UNKNOWN_FRAMES else None

    def close(self) -> None:
        """Let go of the decoder."""
        self._sound.close()

    def read(self, num_frames: int) -> np.ndarray:
        """Return the next samples, float32 (T, C); none at the end. Raises DecoderError where the decoder gives up."""
        try:
            with collect_decoder_lines(self._lines):
                # To the end: the number of frames in a header is at times only an estimate.
                return self._sound.read(num_frames, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise DecoderError(_explain(error)) from None

    def conclude(self, num_samples: int, error: DecoderError | None) -> list[str]:
        """Return remarks on what is missing of the length that the header states, and on damage.

        Args:
            num_samples: all that could be read.
            error: why no more could.

        Raises:
            AudioError: nothing or little of it can be read, or more than it states is there.
        """
        return [*self._compare_length(num_samples, error), *quote_decoder("its decoder", self._lines)]

    def _compare_length(self, num_samples: int, error: DecoderError | None) -> list[str]:
        if not num_samples:
            raise AudioError(f"undecodable: {error}" if error else "empty")
        place = self._file.tell()
        log, seconds, stated_seconds = self._sound.extra_info, num_samples / self.sample_rate, self.stated_seconds
        unread = self._file.seek(0, io.SEEK_END) - place
        # Decoders of other formats look for the end of the file first.
        if self.format == "FLAC" and not error and unread > max(_FLAC_READS_AHEAD, _NEGLIGIBLE_SHARE * place):
            raise AudioError(
                f"its header contradicts its content: it states {seconds:.1f} s of sound, and more is there"
            )
        if stated_seconds is None:
            if error is None or "END_OF_STREAM" in log:
                return [NO_LENGTH]
            return [f"incomplete: only its first {seconds:.1f} s can be read"]
        share = min(1.0, seconds / stated_seconds) if stated_seconds else 1.0
        if found := _STATED.search(log):
            stated, there = (int(number) for number in found.groups() if number)
            share = min(1.0, there / stated) if stated < _UNKNOWN_BYTES else 1.0
        if remarks := check_length(seconds, seconds / share, "undecodable" if error else "incomplete"):
            return remarks
        if _HOLES.search(log):
            return ["damaged: there are holes in it"]
        return ["it may be incomplete: its end mark is missing"] if _NO_END_MARK.search(log) else []


def _explain(error: Exception) -> str:
    reason = getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")
    # The file does exist: these are libsndfile's words for a format that it does not know.
    return "no audio in a format that libsndfile knows" if reason.startswith("File does not exist") else reason


def _check_wav_header(file: BinaryIO) -> tuple[list[str], BinaryIO | mmap.mmap]:
    """Return remarks, and the file with a header that gives the length of its samples, where a WAV file's does not.

    Raises:
        AudioError: more sound is there than the header states.
    """
    found, length = _find_wav_data(file), file.seek(0, io.SEEK_END)
    file.seek(0)
    if found is None:
        return [], file
    start, stated, bytes_per_second = found
    there = length - start
    if stated >= _UNKNOWN_BYTES:
        return [NO_LENGTH], file
    if there - stated < MIN_SECONDS * bytes_per_second or _are_chunks(file, start + stated, length):
        file.seek(0)
        return [], file
    if stated:
        raise AudioError(
            f"its header contradicts its content: it states {stated / bytes_per_second:.1f} s of sound, and "
            f"{there / bytes_per_second:.1f} s are there"
        )
    size = struct.pack("<I", min(there, 0xFFFFFFFF))
    if isinstance(file, io.BytesIO):
        file.getbuffer()[start - 4 : start] = size
        file.seek(0)
        return [NO_LENGTH], file
    patched = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # in memory only
    patched[start - 4 : start] = size
    return [NO_LENGTH], patched


def _find_wav_data(file: BinaryIO) -> tuple[int, int, int] | None:
    """Return where the samples of a WAV file begin, their stated size, and bytes per second; None for other files."""
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    bytes_per_second = 0
    while len(chunk := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            return (file.tell(), size, bytes_per_second) if bytes_per_second else None
        content = file.read(16) if name == b"fmt " else b""
        if len(content) == 16:
            bytes_per_second = struct.unpack("<8xI4x", content)[0]
        file.seek(size + size % 2 - len(content), io.SEEK_CUR)
    return None


def _are_chunks(file: BinaryIO, start: int, end: int) -> bool:
    """Whether the rest of a WAV file is made of chunks, such as tags, rather than of samples."""
    place = start + start % 2
    while place + 8 <= end:
        file.seek(place)
        name, size = struct.unpack("<4sI", file.read(8))
        if not name.isascii() or not name.decode().isprintable() or place + 8 + size > end:
            return False
        place += 8 + size + size % 2
    return True


@contextlib.contextmanager
def collect_decoder_lines(lines: list[str]) -> Iterator[None]:
    """Add the lines that decoders in C write meanwhile to standard error, past Python and all logging.

    What other threads write there at that moment, such as progress bars, comes out afterwards.
    """
    own = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)
            written.seek(0)
            said = written.read().decode(errors="replace").splitlines(keepends=True)
            lines += [line.strip() for line in said if _DECODER_LINE.match(line)]
            others = "".join(line for line in said if not _DECODER_LINE.match(line))
            if others.strip():
                os.write(2, others.encode())
