"""Audio files, opened by the decoder that knows them: libsndfile, or else FFmpeg. T samples, C channels."""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO, Protocol

import numpy as np

from hf_utils.ffmpeg_decoder import FFMPEG_SUFFIXES, FfmpegSound, find_container
from hf_utils.sndfile_decoder import SNDFILE_SUFFIXES, SndfileSound
from hf_utils.sound_check import AudioError, DecoderError

Source = bytes | str | os.PathLike

# What people keep music in. The content decides how it is read.
AUDIO_SUFFIXES = SNDFILE_SUFFIXES | FFMPEG_SUFFIXES

# Samples per read, over all channels, so that a long file never lies in memory with all its channels.
BLOCK_SAMPLES = 1 << 21
# Frames per read of a damaged file: what comes before the damage is kept but for one such read.
_SALVAGE_FRAMES = 4096
_MIN_RATE_HZ, _MAX_RATE_HZ = 4000, 768_000
_LFS_POINTER = b"version https://git-lfs"


class Sound(Protocol):
    """An open audio file.

    Attributes:
        decoder: what reads it, as messages name it.
        format: its name, such as "FLAC".
        suffixes: that files of this format have; None where any will do.
        sample_rate: Hz.
        num_channels: C.
        stated_seconds: the length that its header states, or None where it states none.
        remarks: on its header.
    """

    decoder: str
    format: str
    suffixes: set[str] | None
    sample_rate: int
    num_channels: int
    stated_seconds: float | None
    remarks: list[str]

    def read(self, num_frames: int) -> np.ndarray:
        """Return the next samples, float32 (T, C); none at the end. Raises DecoderError where the decoder gives up."""

    def conclude(self, num_samples: int, error: DecoderError | None) -> list[str]:
        """Return remarks on what is missing or damaged, after all was read that can be: so many, and why no more.

        Raises:
            AudioError: nothing or little of it can be read, or more than its header states is there.
        """

    def close(self) -> None:
        """Let go of the decoder."""


@contextlib.contextmanager
def open_sound(source: Source) -> Iterator[Sound]:
    """Give an open file. Faults that are found in it name the decoder, where that is not libsndfile.

    Raises:
        AudioError: the file is missing, unreadable or no audio; or its header contradicts its content.
    """
    with _open_file(source) as file, contextlib.closing(_choose_decoder(file)) as sound:
        if not _MIN_RATE_HZ <= sound.sample_rate <= _MAX_RATE_HZ:
            raise AudioError(f"its header states a sampling rate of {sound.sample_rate} Hz")
        try:
            yield sound
        except AudioError as error:
            if isinstance(sound, SndfileSound):
                raise
            raise AudioError(f"{error} (read by {sound.decoder})") from None


def _choose_decoder(file: BinaryIO) -> Sound:
    try:
        return SndfileSound(file)
    except DecoderError as error:
        file.seek(0)
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise AudioError("undecodable: a pointer of Git LFS, not the file itself; run `git lfs pull`") from None
        if container := find_container(file):
            return FfmpegSound(file, container)
        raise AudioError(f"undecodable: {error}") from None


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


def read_block(sound: Sound, *, in_small_steps: bool) -> np.ndarray:
    """Return the next samples, float32 (T, C); none at the end. Raises DecoderError where the decoder gives up."""
    return sound.read(_SALVAGE_FRAMES if in_small_steps else max(1, BLOCK_SAMPLES // sound.num_channels))
