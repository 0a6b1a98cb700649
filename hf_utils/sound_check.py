"""Whether a recording is the sound that it seems to be: what makes it unusable, and what is repaired or remarked on.

Everything that reads audio comes through here: training, augmentation, generation and prediction get the same samples
of a file, or the same reason not to use it. T samples, C channels, full scale is 1.0.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

MIN_SECONDS = 0.5
# A file is unusable if more than this share of it is silent, cancels itself or cannot be read.
MAX_LOST = 0.5

# One 16-bit step, -90.3 dBFS: dither only stays at or below it, so such a file holds no music.
SILENCE_PEAK = 1 / 32768

# Silence is measured over pieces of this length, in seconds.
_PIECE_SECONDS = 0.1
# What is 60 dB below the loudest piece, or below a constant offset, counts as silence.
_SILENT_RATIO = 1e-3
_REMARKABLE_SILENCE = 0.1
# Of what unrelated channels would give together: -7 dB, which music reaches only with a channel turned over.
_CANCELLED = 0.2
# Masters and decoders exceed full scale by less than 12 dB. Samples beyond that are on another scale.
_FAR_ABOVE = 4.0
_INT16_PEAKS = (128.0, 40_000.0)
_INT16_SCALE = 32768.0
_QUIET_PEAK_DB = -50.0

# What decoders leave away at the ends, and nobody misses.
_NEGLIGIBLE_SECONDS = 0.1
NO_LENGTH = "its header gives no length: read to the end"
_MAX_DECODER_LINES = 3


class Demands(NamedTuple):
    """What a recording must hold to be of use: so many seconds, and no more than this share of silence."""

    min_seconds: float = MIN_SECONDS
    max_silent: float = MAX_LOST


OF_MUSIC = Demands()


class AudioError(ValueError):
    """A file that cannot be used. The message is only the reason: the caller knows the file."""


class DecoderError(Exception):
    """A decoder does not know a file, or gave up after its header."""


class Repair(NamedTuple):
    """What is done to every sample of a file, `(sample - offset) * gain`, so that it is what it should be."""

    offset: float = 0.0
    gain: float = 1.0

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 samples (T,) after the repair, within full scale; unchanged ones are not copied."""
        if self == (0.0, 1.0):
            return samples
        return np.clip((samples.astype(np.float64) - self.offset) * self.gain, -1, 1).astype(np.float32)


class SoundCheck:
    """Measures a recording block by block, and then judges it: a long file need not be in memory."""

    def __init__(self, sample_rate: int, demands: Demands = OF_MUSIC):
        self.num_samples = 0
        self._sample_rate, self._demands = sample_rate, demands
        self._piece = max(1, round(_PIECE_SECONDS * sample_rate))
        # Per piece: length, lowest and highest sample, sum, energy, and the energy that unrelated channels would give.
        self._pieces: list[np.ndarray] = [np.zeros((0, 6))]

    def add(self, mono: np.ndarray, block: np.ndarray) -> None:
        """Measure the next float32 samples: the mean of the channels, (T,), and the channels, (T, C).

        Raises:
            AudioError: a sample is not finite.
        """
        if not np.isfinite(mono).all():
            raise AudioError("not finite (holds NaN or infinite samples)")
        self.num_samples += len(mono)
        whole = len(mono) // self._piece * self._piece
        for part in (slice(0, whole), slice(whole, len(mono))):
            if mono[part].size:
                self._pieces.append(self._measure(mono[part], block[part]))

    def _measure(self, mono: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Return the measures of each piece of `mono`, which is a whole number of pieces, or less than one."""
        length = min(self._piece, len(mono))
        pieces = mono.reshape(-1, length)
        energy = _sum_squares(pieces)
        unrelated, num_channels = energy, block.shape[1]
        if num_channels > 1:
            unrelated = _sum_squares(block.reshape(len(pieces), -1)) / num_channels**2
        lengths = np.full(len(pieces), float(length))
        sums = pieces.sum(axis=1, dtype=np.float64)
        return np.stack([lengths, pieces.min(axis=1), pieces.max(axis=1), sums, energy, unrelated], axis=1)

    def conclude(self) -> tuple[Repair, list[str]]:
        """Return how the samples are repaired, and remarks of the form "what: details" on a file that can be used.

        Raises:
            AudioError: as `find_silence`, or its samples are on an unknown scale.
        """
        silent, seconds = self.find_silence(), self.num_samples / self._sample_rate
        remarks = [f"silence: {silent:.1f} of {seconds:.1f} s"] if silent > _REMARKABLE_SILENCE * seconds else []
        _, lows, highs, sums, energy, _ = np.concatenate(self._pieces).T
        offset, mean = 0.0, sums.sum() / self.num_samples
        if mean**2 > energy.sum() / self.num_samples - mean**2:
            offset = float(mean)
            remarks.append(f"a constant offset larger than the sound, taken off: {mean:.3g}")
        gain, more = _fit_full_scale(max(offset - lows.min(), highs.max() - offset))
        return Repair(offset, gain), [*remarks, *more]

    def find_silence(self) -> float:
        """Return for how many seconds the recording is silent, where it holds enough sound.

        Raises:
            AudioError: it is empty, too short, silent, constant or mostly silent, or its channels cancel each other.
        """
        seconds = self.num_samples / self._sample_rate
        if not self.num_samples:
            raise AudioError("empty")
        if seconds < self._demands.min_seconds:
            raise AudioError(f"shorter than {self._demands.min_seconds:g} s ({seconds:.3g} s)")
        lengths, lows, highs, sums, energy, unrelated = np.concatenate(self._pieces).T
        cancelled = unrelated[energy < _CANCELLED * unrelated].sum() > MAX_LOST * unrelated.sum()
        if cancelled and unrelated.sum() > self.num_samples * SILENCE_PEAK**2:
            raise AudioError("silent as mono: its channels cancel each other; keep only one of them")
        if max(-lows.min(), highs.max()) <= SILENCE_PEAK:
            raise AudioError("silent")
        mean, swings = sums.sum() / self.num_samples, (highs - lows) / 2
        if swings.max() <= max(2 * SILENCE_PEAK, _SILENT_RATIO * abs(mean)):
            raise AudioError(f"constant (a level of {mean:.3g}, and no sound)")
        silent = lengths[swings <= max(2 * SILENCE_PEAK, _SILENT_RATIO * swings.max())].sum() / self._sample_rate
        if silent > self._demands.max_silent * seconds:
            raise AudioError(f"mostly silent ({silent:.1f} of {seconds:.1f} s)")
        return silent


def check_length(seconds: float, stated_seconds: float, kind: str = "incomplete") -> list[str]:
    """Return a remark where some of the length that a header states cannot be read.

    Raises:
        AudioError: most of it cannot: the file is of this `kind`.
    """
    text = f"{seconds:.1f} of {stated_seconds:.1f} s can be read"
    if seconds < (1 - MAX_LOST) * stated_seconds:
        raise AudioError(f"{kind}: only {text}")
    return [f"incomplete: {text}"] if stated_seconds - seconds > _NEGLIGIBLE_SECONDS else []


def quote_decoder(decoder: str, lines: Iterable[str]) -> list[str]:
    """Return a remark on damage where a decoder complained; the first of its lines are enough."""
    if lines := list(dict.fromkeys(lines)):
        return [f"damaged, {decoder} says: {' '.join(lines[:_MAX_DECODER_LINES])}"]
    return []


def _sum_squares(rows: np.ndarray) -> np.ndarray:
    """Return the sum of squares of each row as float64: of float32, which is exact enough and much faster."""
    return np.einsum("ij,ij->i", rows, rows).astype(np.float64)


def _fit_full_scale(peak: float) -> tuple[float, list[str]]:
    """Return the gain that brings a peak to full scale, and remarks. Raises AudioError for one of an unknown scale."""
    gain, remarks = 1.0, []
    if peak > _FAR_ABOVE:
        low, high = _INT16_PEAKS
        if not low < peak <= high:
            raise AudioError(f"far above full scale (a peak of {peak:.4g} where 1.0 is full scale); scale it down")
        gain = 1 / _INT16_SCALE
        remarks.append(f"16-bit numbers in a float file, divided by {_INT16_SCALE:.0f}: peak {peak:.0f}")
    if peak * gain > 1:
        excess_db = 20 * np.log10(peak * gain)
        gain /= peak * gain
        remarks.append(f"above full scale, lowered as a whole: by {excess_db:.1f} dB")
    peak_db = 20 * np.log10(peak * gain)
    if peak_db < _QUIET_PEAK_DB:
        remarks.append(f"very quiet: peak {peak_db:.0f} dBFS")
    return float(gain), remarks
