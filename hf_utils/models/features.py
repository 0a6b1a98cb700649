"""Windows -> model inputs. B batch, T samples or frames, F frequency bins, C channels.

The feature extractor that is saved with the checkpoint does the work, in the data-loader workers; nothing here knows
how a spectrogram is made. Every window of a run has one length, so nothing is ever padded and no mask is needed.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from hf_utils.audio import cut_window, resample, window_starts
from hf_utils.errors import UserError
from hf_utils.models.families import family_of, has_feature_stats, unnormalised

# The time axis and the frequency axis of one example's features, by family.
_AXES = {"spectrogram_transformer": (0, 1), "spectrogram_cnn": (2, 1), "musicnn": (0, 1), "clap": (1, 2)}


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

    def __call__(self, features: torch.Tensor, seeds: Sequence[int | None]) -> torch.Tensor:
        """Return masked features of windows, (B, T, F) or (B, C, F, T); None for a seed leaves a window as it is.

        A draw depends only on its seed, and is that of `torchaudio.functional.mask_along_axis`: a width below `width`,
        then a place. It uses no other generator: torch.manual_seed would begin those of all GPUs anew as well.
        """
        if self.is_normalised:
            means = torch.zeros((), device=features.device)
        else:
            means = features.mean(dim=tuple(range(1, features.dim())), keepdim=True)
        masks = ((self.time_axis, self.time_frames), (self.frequency_axis, self.frequency_bins))
        masks = [(axis + 1, width) for axis, width in masks if width]
        parts = [
            torch.zeros(len(masks), 2)
            if seed is None
            else torch.rand(len(masks), 2, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        for (axis, width), draws in zip(masks, torch.stack(parts, dim=1), strict=True):
            size = features.shape[axis]
            lengths = draws[:, 0] * width
            starts = (draws[:, 1] * (size - lengths)).long()
            shape = [-1 if i == 0 else 1 for i in range(features.dim())]
            first, end = (_bring_to(features.device, x.reshape(shape)) for x in (starts, starts + lengths.long()))
            shape[0], shape[axis] = 1, -1
            places = torch.arange(size, device=features.device).reshape(shape)
            features = torch.where((places >= first) & (places < end), means, features)
        return features


def _bring_to(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """Return a small tensor of the CPU on `device`, without waiting until a GPU has done all that was asked of it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _mix(both: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Return (B, ...) of B windows and then their B partners, (2B, ...); `shares` (B,) are those of the windows."""
    windows, partners = both.chunk(2)
    shares = shares.reshape(-1, *[1] * (both.dim() - 1))
    return shares * windows + (1 - shares) * partners


class WindowCollator:
    """Turn a list of windows into the inputs of a model: its main input, and `labels` int64 (B,).

    `spec_augment` masks windows that have a seed, which are those of training. Windows that have a partner are mixed
    with it after that, feature by feature, and `labels` are float32 (B, K), shares of the K = `num_genres`.
    """

    def __init__(self, feature_extractor, *, spec_augment: SpecAugment | None = None, num_genres: int | None = None):
        self._feature_extractor, self._num_genres = feature_extractor, num_genres
        self._spec_augment = spec_augment
        self._input_name = feature_extractor.model_input_names[0]

    @property
    def varying_option(self) -> str | None:
        """The options by which the features of one window differ from visit to visit; None if they are the same."""
        return None if self._spec_augment is None else "spec_augment_time_seconds and spec_augment_freq_bins"

    def __call__(self, windows: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        partners = [window["partner"] for window in windows if "partner" in window]
        everything = [*windows, *partners]
        features, labels = self._stack_features(everything), torch.tensor([w["label"] for w in everything])
        if self._spec_augment is not None:
            features = self._spec_augment(features, [window["seed"] for window in everything])
        if partners:
            shares = torch.tensor([window["share"] for window in windows])
            labels = _mix(torch.nn.functional.one_hot(labels, self._num_genres).float(), shares)
            features = _mix(features, _bring_to(features.device, shares))
        return {self._input_name: features, "labels": _bring_to(features.device, labels)}

    def _stack_features(self, windows: Sequence[Mapping]) -> torch.Tensor:
        if "features" in windows[0]:
            return torch.stack([w["features"] for w in windows])
        extractor = self._feature_extractor
        batch = extractor([w["samples"] for w in windows], sampling_rate=extractor.sampling_rate, return_tensors="pt")
        return batch[self._input_name]


def spectrogram_axes(config) -> tuple[int, int] | None:
    """Return the time axis and the frequency axis of one window's features; None where they are no spectrogram."""
    return _AXES.get(family_of(config))


def make_example(feature_extractor, window_samples: int) -> dict[str, torch.Tensor]:
    """Return the input of a model for one window of noise, the same every time; it need not be normalised yet."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, window_samples).astype(np.float32)
    # The mean and the deviation of the training split need not be known yet.
    with unnormalised(feature_extractor) if has_feature_stats(feature_extractor) else contextlib.nullcontext():
        example = WindowCollator(feature_extractor)([{"samples": samples, "label": 0, "seed": None}])
    name = feature_extractor.model_input_names[0]
    return {name: example[name]}


def make_spec_augment(
    config, feature_extractor, window_samples: int, *, time_seconds: float, frequency_bins: int
) -> SpecAugment | None:
    """Return the masks asked for, or None. Raises UserError where the family has no spectrogram to mask."""
    if not time_seconds and not frequency_bins:
        return None
    axes = spectrogram_axes(config)
    if axes is None:
        raise UserError(
            f"--spec_augment_time_seconds and --spec_augment_freq_bins mask spectrograms, but {config.model_type} "
            "reads another input. Leave them out; HuBERT, wav2vec2 and WavLM mask their own features (mask_time_prob "
            "in the checkpoint's config.json)."
        )
    time_axis, frequency_axis = axes
    shape = make_example(feature_extractor, window_samples)[feature_extractor.model_input_names[0]].shape[1:]
    frames_per_second = shape[time_axis] * feature_extractor.sampling_rate / window_samples
    time_frames = round(time_seconds * frames_per_second)
    for option, width, size in (
        ("--spec_augment_time_seconds", time_frames, shape[time_axis]),
        ("--spec_augment_freq_bins", frequency_bins, shape[frequency_axis]),
    ):
        if width >= size:
            raise UserError(f"{option} would mask {width} of {size}: choose less than the whole window.")
    is_normalised = getattr(feature_extractor, "do_normalize", False)
    return SpecAugment(time_axis, frequency_axis, time_frames, frequency_bins, is_normalised)


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
