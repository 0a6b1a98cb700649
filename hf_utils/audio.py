"""Audio files as mono float32 arrays: decoding, resampling, 16-bit PCM, fixed windows, loudness.

Needs numpy, soundfile and soxr only. Shapes: T samples, C channels. Full scale is 1.0.
"""

import contextlib
import hashlib
import io
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
import soundfile
import soxr

logger = logging.getLogger(__name__)

# What libsndfile reads and people keep music in.
READABLE_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".au", ".aif", ".aiff"})
# With music that it does not read: taken all the same, so that it is listed as such rather than passed over.
AUDIO_SUFFIXES = READABLE_SUFFIXES | {".m4a", ".aac", ".wma", ".ape", ".wv", ".mpc", ".mka", ".alac"}
MIN_SECONDS = 0.5
PCM16_SCALE = 32768

# One 16-bit step, -90.3 dBFS: dither only stays at or below it, so such a file holds no music.
SILENCE_PEAK = 1 / PCM16_SCALE

# Frames per read, so that a long stereo file never lies in memory with all its channels.
BLOCK_FRAMES = 1 << 20

# The MP3 decoder's, such as "Note: Trying to resync..." and "[src/libmpg123/id3.c:...] error: ...".
_REMARK = re.compile(r"(Note|Warning): |\[.*libmpg123")
_MAX_REMARKS = 3


class AudioError(ValueError):
    """A file that cannot be used. The message is only the reason: the caller knows the file."""


def decode(source: bytes | str | os.PathLike, name: str | None = None) -> tuple[np.ndarray, int]:
    """Return (samples, sample_rate in Hz) of an audio file's bytes or path: float32 (T,), the mean of its channels.

    What the decoder remarks on a damaged file that it reads all the same is logged under `name`, by default the path.

    Raises:
        AudioError: the file is missing, empty, undecodable, not finite, silent, or shorter than `MIN_SECONDS`.
    """
    remarks: list[str] = []
    with collect_remarks(remarks):
        samples, sample_rate = _read_mono(source)
    if remarks:
        shown = name or ("an audio file" if isinstance(source, bytes) else os.fspath(source))
        logger.warning("%s may be damaged; its decoder says: %s", shown, " ".join(remarks[:_MAX_REMARKS]))
    if not samples.size:
        raise AudioError("empty")
    if not np.isfinite(samples).all():
        raise AudioError("not finite (holds NaN or infinite samples)")
    if samples.size < MIN_SECONDS * sample_rate:
        raise AudioError(f"shorter than {MIN_SECONDS:g} s ({samples.size / sample_rate:.3g} s)")
    if np.abs(samples).max() <= SILENCE_PEAK:
        raise AudioError("silent")
    return samples, sample_rate


def _read_mono(source: bytes | str | os.PathLike) -> tuple[np.ndarray, int]:
    if isinstance(source, bytes):
        if not source:
            raise AudioError("empty")
        file = io.BytesIO(source)
    else:
        file = os.fspath(source)
        _check_readable(file)
    blocks = [np.zeros(0, np.float32)]
    try:
        with soundfile.SoundFile(file) as sound:
            # Read to the end: the number of frames in an MP3's header is only an estimate.
            while len(block := sound.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
            return np.concatenate(blocks), sound.samplerate
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless file, known by its name
        reason = getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")
        if reason.startswith("File does not exist"):  # it does: libsndfile's word for a format that it does not know
            reason = "no audio in a format that libsndfile knows"
        raise AudioError(f"undecodable: {reason}") from None


def _check_readable(path: str) -> None:
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise AudioError("empty")
    except FileNotFoundError:
        raise AudioError("missing") from None
    except OSError as error:
        raise AudioError(f"unreadable: {error.strerror}") from None


@contextlib.contextmanager
def collect_remarks(remarks: list[str]) -> Iterator[None]:
    """Add the lines, each once, that decoders in C write meanwhile to standard error, past Python and all logging.

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
            lines = written.read().decode(errors="replace").splitlines(keepends=True)
            remarks += dict.fromkeys(line.strip() for line in lines if _REMARK.match(line))
            others = "".join(line for line in lines if not _REMARK.match(line))
            if others.strip():
                os.write(2, others.encode())


def read_duration(source: bytes | str | os.PathLike) -> float:
    """Return the length in seconds that a file's header states, without decoding; 0.0 where it cannot be read."""
    try:
        with collect_remarks([]):  # decoding says them
            info = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source))
    except (soundfile.SoundFileError, TypeError):
        return 0.0
    return info.frames / info.samplerate


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Return `samples` (T,) at `to_rate` Hz as float32, by soxr's HQ setting. Equal rates return them unchanged."""
    if from_rate == to_rate:
        return samples.astype(np.float32, copy=False)
    return soxr.resample(samples.astype(np.float32, copy=False), from_rate, to_rate, quality="HQ")


def load(source: bytes | str | os.PathLike, sample_rate: int) -> np.ndarray:
    """Return a file as mono float32 (T,) at `sample_rate` Hz. Raises AudioError as `decode` does."""
    return resample(*decode(source), sample_rate)


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """Return finite samples as int16, rounded to the nearest step. Beyond full scale they are clipped, never wrapped.

    Float files and the overshoot of resampling do exceed full scale. Samples that came from 16 bits come back exactly.
    """
    steps = np.rint(samples * np.float32(PCM16_SCALE))
    return np.clip(steps, -PCM16_SCALE, PCM16_SCALE - 1).astype(np.int16)


def from_pcm16(pcm: np.ndarray) -> np.ndarray:
    """Return 16-bit samples as float32 in [-1, 1)."""
    return pcm.astype(np.float32) / np.float32(PCM16_SCALE)


def encode_flac(samples: np.ndarray, sample_rate: int) -> bytes:
    """Return a 16-bit FLAC file of mono float32 `samples` (T,).

    Raises:
        ValueError: the samples are not one-dimensional float32, not finite, or beyond full scale. A writer decides
            on its own gain; clipping here would hide that it did not.
    """
    if samples.dtype != np.float32 or samples.ndim != 1:
        raise ValueError(f"expected mono float32 samples of shape (T,), found {samples.dtype} of {samples.shape}")
    if not np.isfinite(samples).all():
        raise ValueError("expected finite samples, found NaN or infinite ones")
    if samples.size and (peak := np.abs(samples).max()) > 1:
        raise ValueError(f"expected samples within full scale (1.0), found a peak of {peak:g}: lower the gain first")
    file = io.BytesIO()
    soundfile.write(file, to_pcm16(samples), sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def hash_samples(samples: np.ndarray) -> str:
    """Return the hex SHA-256 of the samples as 16-bit PCM, so that WAV and FLAC of one recording agree."""
    return hashlib.sha256(to_pcm16(samples).astype("<i2").tobytes()).hexdigest()


def window_starts(num_samples: int, window_samples: int, hop_samples: int) -> list[int]:
    """Return the first samples of the windows that cover a clip; the last one ends where the clip ends.

    A clip no longer than a window gives [0].

    Raises:
        ValueError: a size is not positive, or the hop is longer than the window, which would leave gaps.
    """
    if num_samples < 1 or not 1 <= hop_samples <= window_samples:
        raise ValueError(
            f"expected num_samples >= 1 and 1 <= hop_samples <= window_samples, found num_samples={num_samples}, "
            f"window_samples={window_samples}, hop_samples={hop_samples}"
        )
    last = max(num_samples - window_samples, 0)
    return [*range(0, last, hop_samples), last]


def cut_window(samples: np.ndarray, start: int, window_samples: int) -> np.ndarray:
    """Return a copy of `window_samples` samples from `start` on, float32; past the end the clip begins anew.

    A short clip is repeated, never padded: silence at the end would be a feature of the class of short clips.

    Raises:
        ValueError: the clip is empty, or `start` lies outside it.
    """
    if not 0 <= start < samples.size:
        raise ValueError(f"expected a start within the clip's {samples.size} samples, found {start}")
    window = samples[start : start + window_samples]
    if window.size < window_samples:
        window = np.take(samples, np.arange(start, start + window_samples), mode="wrap")
    return np.array(window, dtype=np.float32)


def stream_windows(
    blocks: Iterable[np.ndarray], window_samples: int, hop_samples: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (start, end, samples) of the windows that cover a clip, which comes in blocks (T,) of any length.

    They are those of `window_starts` and `cut_window`; a window and a block are in memory at a time. `start` and `end`
    count samples of the clip; only a clip shorter than a window has less than a window between them.

    Raises:
        ValueError: as `window_starts`.
    """
    window_starts(1, window_samples, hop_samples)
    held, first, start = np.zeros(0, np.float32), 0, 0
    for block in blocks:
        held = np.concatenate([held, block])
        # A window that ends with the clip is the last one: so each of these must end before what is held.
        while first + held.size > start + window_samples:
            yield start, start + window_samples, held[start - first :][:window_samples].astype(np.float32)
            start += hop_samples
        # The last window may begin before the next hop.
        done = max(min(start - first, held.size - window_samples), 0)
        held, first = held[done:], first + done
    last = window_starts(first + held.size, window_samples, hop_samples)[-1]
    yield last, min(last + window_samples, first + held.size), cut_window(held, last - first, window_samples)


def rms_db(samples: np.ndarray) -> float:
    """Return the root mean square in dBFS (a full-scale square wave is 0 dB); -inf for silence or no samples."""
    power = np.mean(np.square(samples, dtype=np.float64)) if samples.size else 0.0
    return float(10 * np.log10(power)) if power > 0 else float("-inf")
