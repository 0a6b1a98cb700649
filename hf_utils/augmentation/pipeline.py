"""Transforms from a YAML file, applied to one clip at a time: the same for datasets, training and corruptions.

The result depends on the samples, their rate, the seed and the transforms, and not on what ran before, nor in which
process. audiomentations draws from the two global generators, `random` and `np.random`; both are seeded for the call
and then put back as they were. What the transforms really did to a clip is noted as they run, with the SNR.
"""

import contextlib
import dataclasses
import functools
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_utils.audio import cut_window, resample, rms_db
from hf_utils.augmentation.recordings import digest_recordings
from hf_utils.augmentation.transform_spec import build_transforms
from hf_utils.config_files import read_config
from hf_utils.disclosure import show_source
from hf_utils.errors import UserError
from hf_utils.seeding import derive_seed
from hf_utils.sound_check import SILENCE_PEAK, AudioError, SoundCheck

# Packages that change samples.
TRANSFORM_PACKAGES = ("audiomentations", "fast-mp3-augment", "numpy", "python-stretch", "scipy")

# Part of what a result depends on: raise it when the same transforms, seed and versions give other samples.
# 2: an MP3 round trip, a stretched and a pitched clip keep the level; nothing silent, and no noise that is missing.
PIPELINE_VERSION = 2

# How often a clip is drawn anew whose noise is missing, or that came out silent.
_MAX_DRAWS = 100
UNCHANGED = "unchanged"

# Transforms that change the level, though nobody asked for it: LAME lowers by 0.45 dB, stretch and pitch by 0.2, and
# a room doubles the power.
_HOLDS_LEVEL = ("Mp3Compression", "TimeStretch", "PitchShift", "SyntheticReverb")

# The sampling rates of MP3, in Hz.
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)

# Transforms that add noise, and the parameter that says how much: its RMS, which is relative to the music's, or the
# SNR itself. AddGaussianNoise and AddShortNoises are asked for another way.
_NOISE_RMS = {"AddGaussianSNR": "noise_std", "AddColorNoise": "desired_noise_rms"}
_ADDS_NOISE = {*_NOISE_RMS, "AddBackgroundNoise", "AddGaussianNoise", "AddShortNoises"}
# A short clip may fall between two of its sounds.
_ALWAYS_ADDS = frozenset(_ADDS_NOISE - {"AddShortNoises"})

# SNRs are kept to this many decimals, below which sums depend on the processor.
_DECIMALS = 4


class WatchedTransform:
    """A transform of audiomentations that notes what it did, and whose clips keep their length."""

    def __init__(self, transform, applied: list[dict[str, Any]]):
        self.name = type(transform).__name__
        self._transform = transform
        self._applied = applied

    def __call__(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        transform = self._transform
        # Nothing of an earlier clip may remain: some transforms set only the parameters that they use.
        transform.parameters = {"should_apply": None}
        try:
            changed = self._change(samples, sample_rate)
            drawn = transform.serialize_parameters()
        except Exception as error:  # libraries raise whatever they like
            parameters = {key: value for key, value in transform.parameters.items() if key != "should_apply"}
            reason = str(error) or type(error).__name__
            raise UserError(
                f"{self.name} cannot work at {sample_rate} Hz with {_json_ready(parameters)}: {reason}"
            ) from error
        if not drawn["should_apply"]:
            return samples
        note = {"transform": self.name, **_json_ready({k: v for k, v in drawn.items() if k != "should_apply"})}
        if self.name in _ADDS_NOISE:
            note.update(_describe_noise(self.name, drawn, getattr(transform, "noise_rms", None), samples, changed))
        self._applied.append(note)
        return changed

    def try_out(self, samples: np.ndarray, sample_rate: int) -> None:
        """Apply the transform, whatever its probability. Raises UserError if it cannot work at this rate, in Hz."""
        probability, self._transform.p = self._transform.p, 1.0
        try:
            self(samples, sample_rate)
        finally:
            self._transform.p = probability

    def _change(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return float32 samples of the same length, at the same level unless a level was asked for."""
        if self.name == "Mp3Compression":
            changed = self._compress(samples, sample_rate)
        else:
            changed = np.asarray(self._transform(samples, sample_rate), dtype=np.float32)
        if changed.size != samples.size:
            changed = cut_window(changed, 0, samples.size)
        if self.name in _HOLDS_LEVEL and self._transform.parameters["should_apply"]:
            excess_db = rms_db(changed) - rms_db(samples)
            changed = changed * np.float32(10 ** (-excess_db / 20)) if math.isfinite(excess_db) else changed
        return changed

    def _compress(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        # MP3 knows no other rates. What does not fit into the next lower one would be lost in it.
        rate = max((rate for rate in _MP3_RATES if rate <= sample_rate), default=_MP3_RATES[0])
        fitting = resample(samples, sample_rate, rate)
        changed = np.asarray(self._transform(fitting, rate), dtype=np.float32)
        # The decoder leaves the last frame, 24 ms, silent.
        silent = _count_end_zeros(changed) - _count_end_zeros(fitting)
        return resample(changed[: changed.size - max(silent, 0)], rate, sample_rate)


def watch_transforms(composition, applied: list[dict[str, Any]]) -> tuple[list[WatchedTransform], list[str]]:
    """Put watched transforms in the place of those of a composition, at every depth.

    Returns them, and the paths of the user's recordings.
    """
    watched, files = [], []
    for index, transform in enumerate(composition.transforms):
        if hasattr(transform, "transforms"):
            inner = watch_transforms(transform, applied)
            watched, files = [*watched, *inner[0]], [*files, *inner[1]]
        else:
            files += getattr(transform, "sounds_path", None) or getattr(transform, "ir_path", None) or []
            composition.transforms[index] = WatchedTransform(transform, applied)
            watched.append(composition.transforms[index])
    return watched, files


def _count_end_zeros(samples: np.ndarray) -> int:
    return samples.size - np.trim_zeros(samples, "b").size


def _describe_noise(name: str, drawn: Mapping, noise_rms: str | None, before: np.ndarray, after: np.ndarray) -> dict:
    """Return the SNR asked for and measured, in dB; None where there is none."""
    music_power = _power(before)
    measured = _decibels(music_power, _power(after - before))
    if name in _NOISE_RMS:
        asked = _decibels(music_power, drawn[_NOISE_RMS[name]] ** 2)
    else:
        asked = drawn["snr_db"] if name == "AddBackgroundNoise" and noise_rms == "relative" else None
    return {"snr_db": asked, "measured_snr_db": measured}


def _power(samples: np.ndarray) -> float:
    # Not np.dot: its sum depends on the number of threads.
    return float(np.square(samples).sum(dtype=np.float64)) / samples.size


def _decibels(power: float, noise_power: float) -> float | None:
    return round(10 * math.log10(power / noise_power), _DECIMALS) if power > 0 and noise_power > 0 else None


def _json_ready(value: Any) -> Any:
    """Return drawn parameters as plain numbers, texts and lists; of a recording's path, the file's name remains."""
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_json_ready(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (str, Path)):
        return Path(value).name
    return value


@dataclasses.dataclass(frozen=True)
class AugmentedClip:
    """A clip after its transforms.

    Attributes:
        samples: float32 (T,), as many as went in, within full scale.
        transforms: what was really applied, in order, JSON-ready: {"transform": name, parameter: drawn value ...}.
        snr_db: the SNR asked for; None without noise. Of several noises, the loudest counts.
        measured_snr_db: power of the music over that of the added noise, over the whole clip.
        gain: factor that brought the peak back to full scale; 1.0 where it was not above.
        clipped_share: samples beyond full scale before that, as a share: what clipping would have cut.
        fault: why it is not what was asked for, though it was drawn many times; None where it is.
    """

    samples: np.ndarray
    transforms: list[dict[str, Any]]
    snr_db: float | None
    measured_snr_db: float | None
    gain: float
    clipped_share: float
    fault: str | None = None


class Augmentation:
    """A chain of transforms. Picklable; `augmentation(samples, sample_rate, seed)` returns an `AugmentedClip`.

    Attributes:
        config: JSON-ready: the transforms, and a digest of the user's recordings; another result has another config.
    """

    def __init__(self, spec: list[Mapping], *, where: str = "transforms", noise_folder: str | None = None):
        """Build the chain. Raises UserError for any mistake in `spec`, at a place that begins with `where`."""
        from audiomentations import Compose

        self._applied: list[dict[str, Any]] = []
        self._chain = Compose(build_transforms(spec, where, noise_folder), p=1.0)
        self._watched, files = watch_transforms(self._chain, self._applied)
        self.config = {
            "transforms": _hide_folders(spec),
            **({"recordings": digest_recordings(files)} if files else {}),
        }

    def __call__(
        self, samples: np.ndarray, sample_rate: int, seed: int, *, must_change: bool = False
    ) -> AugmentedClip:
        """Transform mono float32 samples (T,) at their real rate in Hz.

        Where the noise is missing, since a recording is silent there, or the clip came out silent, all is drawn anew.
        If no draw helps, the clip has a `fault`.

        Args:
            must_change: the result must be another sound: nothing changed, or mostly silent, is also a fault.

        Raises:
            TypeError: other samples: audiomentations would take 16-bit ones for 90 dB louder music, and say nothing.
            UserError: a transform cannot work at this rate, or made samples that are not finite.
        """
        if not isinstance(samples, np.ndarray) or samples.dtype != np.float32 or samples.ndim != 1 or not samples.size:
            found = (
                f"{samples.dtype} of {samples.shape}" if isinstance(samples, np.ndarray) else type(samples).__name__
            )
            raise TypeError(f"expected mono float32 samples of shape (T,), found {found}")
        for draw in range(_MAX_DRAWS):
            changed = self._draw(samples, sample_rate, derive_seed(seed, "draw", draw) if draw else seed)
            fault = self._find_fault(samples, changed)
            if must_change and fault is None:
                fault = _compare_with_source(samples, changed, sample_rate)
            if fault is None:
                break
        return dataclasses.replace(bring_to_full_scale(changed, [*self._applied]), fault=fault)

    def _draw(self, samples: np.ndarray, sample_rate: int, seed: int) -> np.ndarray:
        self._applied.clear()
        with _seeded(seed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* had to be resampled|.* too silent to be added")
            return self._chain(samples.copy(), sample_rate)

    def _find_fault(self, before: np.ndarray, after: np.ndarray) -> str | None:
        """Return why a clip is not what was asked for, or None."""
        if np.abs(before).max() <= SILENCE_PEAK:
            return None  # a window of silence has nothing to lose
        if np.abs(after).max() <= SILENCE_PEAK:
            return "silent"
        if any(n["transform"] in _ALWAYS_ADDS and n["measured_snr_db"] is None for n in self._applied):
            return "without the noise, since the recording is silent"
        return None

    def try_out(self, sample_rate: int) -> None:
        """Apply every transform to a second of noise. Raises UserError if one cannot work at this rate, in Hz."""
        noise = np.random.default_rng(0).normal(0, 0.1, sample_rate).astype(np.float32)
        with _seeded(0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for transform in self._watched:
                transform.try_out(noise, sample_rate)

    def for_windows(self, sample_rate: int) -> Callable[[np.ndarray, int], np.ndarray]:
        """Return `transform(samples, seed) -> samples` for the training windows of a model at `sample_rate` Hz."""
        return functools.partial(self._transform_window, sample_rate)

    def _transform_window(self, sample_rate: int, samples: np.ndarray, seed: int) -> np.ndarray:
        clip = self(samples, sample_rate, derive_seed(seed, "augmentation"))
        # What a model hears is no file: it needs no full scale, and the level is a cue.
        return clip.samples if clip.gain == 1 else clip.samples / np.float32(clip.gain)


def _compare_with_source(before: np.ndarray, after: np.ndarray, sample_rate: int) -> str | None:
    """Return why a copy is no use beside its source, or None."""
    if np.abs(after - before).max() <= SILENCE_PEAK:
        return UNCHANGED
    check = SoundCheck(sample_rate)
    try:
        check.add(after, after[:, None])
        check.find_silence()
    except AudioError as error:
        return str(error)
    return None


def bring_to_full_scale(samples: np.ndarray, applied: list[dict]) -> AugmentedClip:
    """Return samples after the transforms `applied`, scaled as a whole where their peak is above full scale."""
    magnitude = np.abs(samples)
    peak = float(magnitude.max())
    if not math.isfinite(peak):
        raise UserError(f"the transforms made samples that are not finite: {applied}")
    gain, clipped_share = 1.0, 0.0
    if peak > 1:
        clipped_share = float(np.count_nonzero(magnitude > 1)) / samples.size
        gain = float(np.nextafter(np.float32(1 / peak), np.float32(0)))  # rounding must not end above full scale
        samples = samples * np.float32(gain)
    noises = [note for note in applied if note.get("measured_snr_db") is not None]
    loudest = min(noises, key=lambda note: note["measured_snr_db"], default={})
    snr_db, measured_snr_db = loudest.get("snr_db"), loudest.get("measured_snr_db")
    return AugmentedClip(samples, applied, snr_db, measured_snr_db, gain, clipped_share)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the two global generators within the block, and give them back untouched."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _hide_folders(spec: Any) -> Any:
    """Return a copy of `spec` with absolute folders reduced to their last part: it is published with the clips."""
    if isinstance(spec, Mapping):
        return {key: _hide_folders(value) for key, value in spec.items()}
    if isinstance(spec, list):
        return [_hide_folders(item) for item in spec]
    return show_source(spec) if isinstance(spec, str) else spec


def read_augmentation(path: str | Path, noise_folder: str | None = None) -> Augmentation:
    """Return the chain that a YAML file describes; as `build_augmentation`."""
    return build_augmentation(read_config(path), path, noise_folder)


def build_augmentation(content: Mapping, path: str | Path, noise_folder: str | None = None) -> Augmentation:
    """Return the chain of a YAML file with this content: `transforms`, and a `description` that is left to people.

    Args:
        path: of the file, which messages name.

    Raises:
        UserError: for any mistake in the file, with its place.
    """
    if unknown := sorted(set(content) - {"description", "transforms"}):
        raise UserError(f"{path}: {', '.join(unknown)} is not known, expected description and transforms")
    if "transforms" not in content:
        raise UserError(f"{path}: there is no list of transforms")
    return Augmentation(content["transforms"], where=f"{path}: transforms", noise_folder=noise_folder)
