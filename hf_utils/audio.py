"""Audio files as mono float32 arrays: decoding, resampling, 16-bit PCM, fixed windows, loudness.

Every file is checked while it is read, and repaired where that can be done (see `sound_check`). Shapes: T samples, C
channels. Full scale is 1.0.
"""

import dataclasses
import hashlib
import io
import logging
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import PurePath

import numpy as np
import soundfile
import soxr

from hf_utils.sound_check import OF_MUSIC, AudioError, DecoderError, Demands, Repair, SoundCheck
from hf_utils.sound_files import AUDIO_SUFFIXES, Sound, Source, open_sound, read_block

logger = logging.getLogger(__name__)

PCM16_SCALE = 32768

# What `inspect` keeps of a file instead of decoding it twice: 64 MB, six minutes at 44.1 kHz.
_KEPT_SAMPLES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Recording:
    """A file that was read to its end and can be used; made by `inspect`.

    Attributes:
        source: its path or bytes.
        sample_rate: Hz.
        num_samples: T, at that rate.
        decoder: what read it, such as "libsndfile".
        remarks: what was found and repaired, as "what: details".
        repair: of every sample.
        is_damaged: whether its decoder gave up before the end.
        kept: the samples before the repair, in blocks; none where they were too many to keep.
    """

    source: Source = dataclasses.field(repr=False)
    sample_rate: int
    num_samples: int
    decoder: str
    remarks: tuple[str, ...]
    repair: Repair
    is_damaged: bool
    kept: list[np.ndarray] = dataclasses.field(repr=False, compare=False)

    def blocks(self, sample_rate: int) -> Iterator[np.ndarray]:
        """Yield what `load` returns at `sample_rate` Hz, block by block: memory does not grow with the file.

        Raises:
            AudioError: the file has changed since it was inspected.
        """
        stream, left = None, self.num_samples
        if sample_rate != self.sample_rate:
            stream = soxr.ResampleStream(self.sample_rate, sample_rate, 1, dtype="float32", quality="HQ")
        for block in self.kept or self._read_again():
            left -= len(block)
            samples = self.repair(block)
            resampled = samples if stream is None else stream.resample_chunk(samples, last=not left)
            yield from_pcm16(to_pcm16(resampled))

    def _read_again(self) -> Iterator[np.ndarray]:
        left = self.num_samples
        with open_sound(self.source) as sound:
            while left:
                try:
                    block = read_block(sound, in_small_steps=self.is_damaged)
                except DecoderError:
                    block = ()
                if not 0 < len(block) <= left:
                    raise AudioError("it was changed while it was read")
                left -= len(block)
                yield _mix_down(block)


def inspect(source: Source, demands: Demands = OF_MUSIC) -> Recording:
    """Read a file to its end and return what it holds. `Recording.blocks` reads a long one again.

    Raises:
        AudioError: as `decode`.
    """
    return _read_recording(source, _KEPT_SAMPLES, demands)


def decode(source: Source, name: str | None = None) -> tuple[np.ndarray, int]:
    """Return (samples, sample_rate in Hz) of an audio file's bytes or path: float32 (T,), the mean of its channels.

    What was found and repaired is logged under `name`, by default the path.

    Raises:
        AudioError: the file is missing, empty, undecodable, not finite, silent, constant, mostly silent, far above
            full scale or shorter than half a second; its channels cancel each other; its header contradicts its
            content; or less than half of it can be read.
    """
    samples, recording = decode_with_remarks(source)
    if recording.remarks:
        shown = name or ("an audio file" if isinstance(source, bytes) else os.fspath(source))
        logger.warning("%s: %s", shown, "; ".join(recording.remarks))
    return samples, recording.sample_rate


def decode_with_remarks(source: Source) -> tuple[np.ndarray, Recording]:
    """Return the samples, as `decode` does, and the recording, whose remarks are not logged."""
    recording = _read_recording(source, math.inf)
    return recording.repair(np.concatenate(recording.kept)), recording


def load(source: Source, sample_rate: int) -> np.ndarray:
    """Return a file as mono float32 (T,) at `sample_rate` Hz, in 16-bit steps, as training reads it from its cache.

    Raises:
        AudioError: as `decode`.
    """
    return from_pcm16(to_pcm16(resample(*decode(source), sample_rate)))


def _read_recording(source: Source, most_kept: float, demands: Demands = OF_MUSIC) -> Recording:
    """Read and judge a file; its samples are kept if there are at most `most_kept`."""
    try:
        return _judge(source, most_kept, demands, in_small_steps=False)
    except DecoderError:
        # It gave up within a block: once more, in steps so small that hardly anything is lost.
        return _judge(source, most_kept, demands, in_small_steps=True)


def _judge(source: Source, most_kept: float, demands: Demands, *, in_small_steps: bool) -> Recording:
    error, kept = None, []
    with open_sound(source) as sound:
        check = SoundCheck(sound.sample_rate, demands)
        try:
            while len(block := read_block(sound, in_small_steps=in_small_steps)):
                mono = _mix_down(block)
                check.add(mono, block)
                kept.append(mono)
                if check.num_samples > most_kept:
                    kept.clear()
        except DecoderError as raised:
            if not in_small_steps:
                raise
            error = raised
        remarks = [*sound.remarks, *sound.conclude(check.num_samples, error)]
        repair, more = check.conclude()
        remarks += [*more, *_compare_name(sound, source)]
        facts = sound.sample_rate, check.num_samples, sound.decoder, tuple(remarks)
        return Recording(source, *facts, repair, in_small_steps, kept)


def _compare_name(sound: Sound, source: Source) -> list[str]:
    """Return a remark where the name of a file says another format than the one that was found in it."""
    suffix = "" if isinstance(source, bytes) else PurePath(source).suffix.lower()
    if suffix in AUDIO_SUFFIXES and suffix not in (sound.suffixes or AUDIO_SUFFIXES):
        return [f"its name says {suffix[1:].upper()}: its content is {sound.format}"]
    return []


def _mix_down(block: np.ndarray) -> np.ndarray:
    """Return the mean of the channels of float32 samples (T, C) as (T,)."""
    mono = block[:, 0].copy()
    for channel in block.T[1:]:  # ten times as fast as numpy's mean over so short an axis
        mono += channel
    mono /= np.float32(block.shape[1])
    return mono


def read_header(source: Source) -> tuple[int, float]:
    """Return (sampling rate in Hz, length in seconds) that a file's header states, without decoding; 0 for none."""
    try:
        with open_sound(source) as sound:
            return sound.sample_rate, sound.stated_seconds or 0.0
    except AudioError:
        return 0, 0.0


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Return `samples` (T,) at `to_rate` Hz as float32, by soxr's HQ setting. Equal rates return them unchanged."""
    if from_rate == to_rate:
        return samples.astype(np.float32, copy=False)
    return soxr.resample(samples.astype(np.float32, copy=False), from_rate, to_rate, quality="HQ")


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


def hash_sound(source: Source) -> str:
    """Return the hex SHA-256 of every sample of every channel as it is decoded, and of the sampling rate.

    Nothing is judged or repaired, so that files have one hash only if they sound the same to the last bit.

    Raises:
        AudioError: the file is missing, unreadable or no audio.
    """
    try:
        return _hash_blocks(source, in_small_steps=False)
    except DecoderError:
        return _hash_blocks(source, in_small_steps=True)


def _hash_blocks(source: Source, *, in_small_steps: bool) -> str:
    with open_sound(source) as sound:
        digest = hashlib.sha256(f"{sound.sample_rate} Hz, {sound.num_channels} channels".encode())
        try:
            while len(block := read_block(sound, in_small_steps=in_small_steps)):
                digest.update(block.astype("<f4", copy=False).tobytes())
        except DecoderError:
            if not in_small_steps:
                raise
        return digest.hexdigest()


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
