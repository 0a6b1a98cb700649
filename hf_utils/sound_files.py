"""Audio files as libsndfile reads them, block by block, and where their headers and their content disagree.

T samples, C channels.
"""

import contextlib
import io
import mmap
import os
import re
import stat
import struct
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from hf_utils.sound_check import MAX_LOST, MIN_SECONDS, AudioError

Source = bytes | str | os.PathLike

# Samples per read, over all channels, so that a long file never lies in memory with all its channels.
BLOCK_SAMPLES = 1 << 21
# Frames per read of a damaged file: what comes before the damage is kept but for one such read.
_SALVAGE_FRAMES = 4096
_MIN_RATE_HZ, _MAX_RATE_HZ = 4000, 768_000

# How files begin that libsndfile does not read, and what they are.
_FOREIGN = (
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself; run `git lfs pull`"),
    (rb"....ftyp", "MP4 or M4A, which libsndfile does not read; convert it to FLAC or WAV"),
    (rb"\x30\x26\xb2\x75|MAC |wvpk|MPCK|MP\+", "WMA, APE, WavPack or Musepack; convert it to FLAC or WAV"),
)
# In libsndfile's log of a header: what it states, and what is there, in bytes or frames.
_STATED = re.compile(
    r"(?:data|Data Size)\s*: (\d+) \(should be (\d+)\)|\((\d+)\) not equal to frame.*?\((\d+)\)", re.S
)
_NO_END_MARK = re.compile(r"lacks an end-of-stream bit|without an End-Of-Stream flag")
_HOLES = re.compile(r"Corrupted bitstream|reports a hole")
# What writers state that do not know the length yet: this many bytes or more, or as many frames as can be counted.
_UNKNOWN_BYTES, _UNKNOWN_FRAMES = 0x7FFFF000, 1 << 48
# What decoders leave away at the ends, and what nobody misses.
_NEGLIGIBLE_SECONDS, _NEGLIGIBLE_SHARE = 0.1, 0.02
_FLAC_READS_AHEAD = 1 << 15
NO_LENGTH = "its header gives no length: read to the end"

# The MP3 decoder's, such as "Note: Trying to resync..." and "[src/libmpg123/id3.c:...] error: ...".
_DECODER_LINE = re.compile(r"(Note|Warning): |\[.*libmpg123")


class DecoderError(Exception):
    """The decoder gave up after the header."""


class OpenSound(NamedTuple):
    """A decoder, the file that it reads from, and remarks on its header."""

    decoder: soundfile.SoundFile
    file: BinaryIO
    remarks: list[str]


@contextlib.contextmanager
def open_sound(source: Source, lines: list[str]) -> Iterator[OpenSound]:
    """Give an open file; what the decoder says of it is added to `lines`.

    Raises:
        AudioError: the file is missing, unreadable or no audio; or its header contradicts its content.
    """
    with _open_file(source) as file:
        remarks, readable = _check_wav_header(file)
        try:
            with collect_decoder_lines(lines):
                decoder = soundfile.SoundFile(readable)
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless file, known by its name
            file.seek(0)
            start = file.read(32)
            foreign = next((what for pattern, what in _FOREIGN if re.match(pattern, start, re.DOTALL)), None)
            raise AudioError(f"undecodable: {foreign or _explain(error)}") from None
        with decoder:
            if not _MIN_RATE_HZ <= decoder.samplerate <= _MAX_RATE_HZ:
                raise AudioError(f"its header states a sampling rate of {decoder.samplerate} Hz")
            yield OpenSound(decoder, file, remarks)


def _open_file(source: Source) -> BinaryIO:
    try:
        if not isinstance(source, bytes) and not stat.S_ISREG(os.stat(source).st_mode):
            raise AudioError("unreadable: not a file")  # to open a pipe would wait for ever
        file = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")
        if file.seek(0, io.SEEK_END):
            file.seek(0)
            return file
        file.close()
    except FileNotFoundError:
        raise AudioError("missing") from None
    except OSError as error:
        raise AudioError(f"unreadable: {error.strerror}") from None
    raise AudioError("empty")


def read_block(sound: soundfile.SoundFile, lines: list[str], *, in_small_steps: bool) -> np.ndarray:
    """Return the next samples, float32 (T, C); none at the end. Raises DecoderError where the decoder gives up."""
    frames = _SALVAGE_FRAMES if in_small_steps else max(1, BLOCK_SAMPLES // sound.channels)
    try:
        with collect_decoder_lines(lines):
            # To the end: the number of frames in a header is at times only an estimate.
            return sound.read(frames, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise DecoderError(_explain(error)) from None


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


def find_length(sound: soundfile.SoundFile) -> float | None:
    """Return the length in seconds that a header states, or None where it states none."""
    return sound.frames / sound.samplerate if sound.frames < _UNKNOWN_FRAMES else None


def compare_length(sound: OpenSound, num_samples: int, error: DecoderError | None) -> list[str]:
    """Return remarks on what is missing of the length that a header states, after all was read that can be.

    Raises:
        AudioError: nothing or little of it can be read, or more than it states is there.
    """
    if not num_samples:
        raise AudioError(f"undecodable: {error}" if error else "empty")
    decoder, place = sound.decoder, sound.file.tell()
    log, seconds, stated_seconds = decoder.extra_info, num_samples / decoder.samplerate, find_length(decoder)
    unread = sound.file.seek(0, io.SEEK_END) - place
    # Decoders of other formats look for the end of the file first.
    if decoder.format == "FLAC" and not error and unread > max(_FLAC_READS_AHEAD, _NEGLIGIBLE_SHARE * place):
        raise AudioError(f"its header contradicts its content: it states {seconds:.1f} s of sound, and more is there")
    if stated_seconds is None:
        if error is None or "END_OF_STREAM" in log:
            return [NO_LENGTH]
        return [f"incomplete: only its first {seconds:.1f} s can be read"]
    share = min(1.0, seconds / stated_seconds) if stated_seconds else 1.0
    if found := _STATED.search(log):
        stated, there = (int(number) for number in found.groups() if number)
        share = min(1.0, there / stated) if stated < _UNKNOWN_BYTES else 1.0
    text = f"{seconds:.1f} of {seconds / share:.1f} s"
    if share < 1 - MAX_LOST:
        raise AudioError(f"{'undecodable' if error else 'incomplete'}: only {text} can be read")
    if (1 / share - 1) * seconds > _NEGLIGIBLE_SECONDS:
        return [f"incomplete: {text} can be read"]
    if _HOLES.search(log):
        return ["damaged: there are holes in it"]
    return ["it may be incomplete: its end mark is missing"] if _NO_END_MARK.search(log) else []


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
