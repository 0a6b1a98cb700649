"""What the transforms of audiomentations really did to a clip: noted as they run, with the SNR before and after."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_utils.audio import cut_window
from hf_utils.errors import UserError

# Transforms that add noise, and the parameter that says how much: its RMS, which is relative to the music's, or the
# SNR itself. AddGaussianNoise and AddShortNoises are asked for another way.
_NOISE_RMS = {"AddGaussianSNR": "noise_std", "AddColorNoise": "desired_noise_rms"}
_ADDS_NOISE = {*_NOISE_RMS, "AddBackgroundNoise", "AddGaussianNoise", "AddShortNoises"}
# SNRs are kept to this many decimals, below which sums depend on the processor.
_DECIMALS = 4


class WatchedTransform:
    """A transform of audiomentations that notes what it did, and whose clips keep their length."""

    def __init__(self, transform, applied: list[dict[str, Any]]):
        self._transform = transform
        self._applied = applied

    def __call__(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        transform, name = self._transform, type(self._transform).__name__
        # Nothing of an earlier clip may remain: some transforms set only the parameters that they use.
        transform.parameters = {"should_apply": None}
        try:
            changed = transform(samples, sample_rate)
        except (AssertionError, ValueError) as error:
            raise UserError(f"{name} cannot work at {sample_rate} Hz with {transform.parameters}: {error}") from error
        drawn = transform.serialize_parameters()
        if not drawn["should_apply"]:
            return samples
        note = {"transform": name, **_json_ready({k: v for k, v in drawn.items() if k != "should_apply"})}
        if name in _ADDS_NOISE:
            note.update(_describe_noise(name, drawn, getattr(transform, "noise_rms", None), samples, changed))
        self._applied.append(note)
        changed = np.asarray(changed, dtype=np.float32)
        if name == "Mp3Compression":  # the decoder leaves the last frame, 24 ms, silent
            silent = (
                changed.size - np.trim_zeros(changed, "b").size - (samples.size - np.trim_zeros(samples, "b").size)
            )
            changed = changed[: changed.size - max(silent, 0)]
        return changed if changed.size == samples.size else cut_window(changed, 0, samples.size)


def watch_transforms(composition, applied: list[dict[str, Any]]) -> list[str]:
    """Put watched transforms in the place of those of a composition, at every depth; return the user's recordings."""
    files = []
    for index, transform in enumerate(composition.transforms):
        if hasattr(transform, "transforms"):
            files += watch_transforms(transform, applied)
        else:
            files += getattr(transform, "sounds_path", None) or getattr(transform, "ir_path", None) or []
            composition.transforms[index] = WatchedTransform(transform, applied)
    return files


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
