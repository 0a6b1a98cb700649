"""Windows -> model inputs. B batch, T samples or frames, F frequency bins, C channels.

The feature extractor that is saved with the checkpoint does the work, in the data-loader workers; nothing here knows
how a spectrogram is made. Every window of a run has one length, so nothing is ever padded and no mask is needed.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import torchaudio

from hf_utils.audio import cut_window, resample, window_starts
from hf_utils.errors import UserError
from hf_utils.models.families import family_of

# The time axis and the frequency axis of one example's features, by family.
_AXES = {"spectrogram_transformer": (0, 1), "spectrogram_cnn": (2, 1), "musicnn": (0, 1)}
# Whose features are not normalised, so that 0 is not their mean.
_UNNORMALISED = ("musicnn",)


@dataclasses.dataclass(frozen=True)
class SpecAugment:
    """One time mask and one frequency mask per window (Park et al. 2019, arXiv 1904.08779), filled with the mean.

    Attributes:
        time_frames: longest time mask, in frames; 0 for none.
        frequency_bins: highest frequency mask, in bins; 0 for none.
        is_normalised: whether the mean of all features is 0; otherwise the mean of the window takes its place.
    """

    time_axis: int
    frequency_axis: int
    time_frames: int
    frequency_bins: int
    is_normalised: bool = True

    def __call__(self, features: torch.Tensor, seed: int) -> torch.Tensor:
        """Return masked features of one window (T, F) or (C, F, T); the draw depends only on `seed`."""
        mean = 0.0 if self.is_normalised else features.mean().item()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for axis, width in ((self.time_axis, self.time_frames), (self.frequency_axis, self.frequency_bins)):
                if width:
                    features = torchaudio.functional.mask_along_axis(features, width, mean, axis)
        return features


class WindowCollator:
    """Turn a list of windows into the inputs of a model: its main input, and `labels` int64 (B,).

    `spec_augment` masks windows that have a seed, which are those of training.
    """

    def __init__(self, feature_extractor, *, spec_augment: SpecAugment | None = None):
        self._feature_extractor = feature_extractor
        self._spec_augment = spec_augment
        self._input_name = feature_extractor.model_input_names[0]

    @property
    def varying_option(self) -> str | None:
        """The options by which the features of one window differ from visit to visit; None if they are the same."""
        return None if self._spec_augment is None else "spec_augment_time_seconds and spec_augment_freq_bins"

    def __call__(self, windows: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        features = self._stack_features(windows)
        if self._spec_augment is not None:
            pairs = [(x, window["seed"]) for x, window in zip(features, windows, strict=True)]
            features = torch.stack([x if seed is None else self._spec_augment(x, seed) for x, seed in pairs])
        return {self._input_name: features, "labels": torch.tensor([w["label"] for w in windows])}

    def _stack_features(self, windows: Sequence[Mapping]) -> torch.Tensor:
        if "features" in windows[0]:
            return torch.from_numpy(np.stack([w["features"] for w in windows]))
        extractor = self._feature_extractor
        batch = extractor([w["samples"] for w in windows], sampling_rate=extractor.sampling_rate, return_tensors="pt")
        return batch[self._input_name]


def make_spec_augment(
    config, feature_extractor, window_samples: int, *, time_seconds: float, frequency_bins: int
) -> SpecAugment | None:
    """Return the masks asked for, or None. Raises UserError where the family has no spectrogram to mask."""
    if not time_seconds and not frequency_bins:
        return None
    family = family_of(config)
    if family not in _AXES:
        raise UserError(
            f"--spec_augment_time_seconds and --spec_augment_freq_bins mask spectrograms, but {config.model_type} "
            "reads another input. Leave them out; HuBERT, wav2vec2 and WavLM mask their own features (mask_time_prob "
            "in the checkpoint's config.json)."
        )
    time_axis, frequency_axis = _AXES[family]
    example = WindowCollator(feature_extractor)(
        [{"samples": torch.zeros(window_samples).numpy(), "label": 0, "seed": None}]
    )
    shape = example[feature_extractor.model_input_names[0]].shape[1:]
    frames_per_second = shape[time_axis] * feature_extractor.sampling_rate / window_samples
    time_frames = round(time_seconds * frames_per_second)
    for option, width, size in (
        ("--spec_augment_time_seconds", time_frames, shape[time_axis]),
        ("--spec_augment_freq_bins", frequency_bins, shape[frequency_axis]),
    ):
        if width >= size:
            raise UserError(f"{option} would mask {width} of {size}: choose less than the whole window.")
    return SpecAugment(time_axis, frequency_axis, time_frames, frequency_bins, family not in _UNNORMALISED)


def clip_windows(feature_extractor, samples: np.ndarray, sample_rate: int, window_samples: int) -> list[np.ndarray]:
    """Return windows that cover a clip (T,), half overlapping, at the extractor's sampling rate."""
    samples = resample(samples, sample_rate, feature_extractor.sampling_rate)
    starts = window_starts(samples.size, window_samples, max(window_samples // 2, 1))
    return [cut_window(samples, start, window_samples) for start in starts]


@torch.inference_mode()
def run_windows(
    model,
    feature_extractor,
    windows: Iterable[np.ndarray],
    *,
    batch_size: int = 8,
    output: str = "logits",
    precision: torch.dtype | None = None,
) -> torch.Tensor:
    """Return an output of a model, such as the logits (W, K), for W windows (T,): float32, on the CPU.

    A batch of windows is in memory at a time. Whatever is not trained goes through here; the Trainer has its own loop.
    `precision` is that of the model's matrix products and convolutions, bfloat16 or float16; None for its own.
    """
    collate, name, outputs = WindowCollator(feature_extractor), feature_extractor.model_input_names[0], []
    windows = iter(windows)
    while batch := [{"samples": window, "label": 0} for window in itertools.islice(windows, batch_size)]:
        features = collate(batch)[name].to(model.device, model.dtype)
        with torch.autocast(model.device.type, dtype=precision, enabled=precision is not None):
            outputs.append(getattr(model(**{name: features}), output).float().cpu())
    return torch.cat(outputs)
