"""Which part of a window decided between two genres: gradient x input. F frequency bins, T frames, S samples.

The gradient of the difference of two logits by each feature, times the feature, is what the feature adds to the
difference as far as the model is linear around the window (Simonyan et al. 2013, arXiv 1312.6034; Shrikumar et al.
2016, arXiv 1605.01713). For a linear model the sum over all features is the difference without the biases. Features
count from 0: that is the mean of the training data where they are standardised, and silence elsewhere.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch

from hf_utils.errors import UserError
from hf_utils.models.families import family_of
from hf_utils.models.features import WindowCollator, spectrogram_axes


@dataclasses.dataclass(frozen=True)
class Attribution:
    """What decided in a window.

    Attributes:
        features: float32, what the model reads: a spectrogram (F, T), low frequencies first, or a waveform (S,).
        shares: of the same shape: what each feature adds to `margin`; below 0 it speaks against it.
        margin: the logit of the one genre minus that of the other.
    """

    features: np.ndarray
    shares: np.ndarray
    margin: float


def explain_window(model, feature_extractor, window: np.ndarray, chosen: int, other: int) -> Attribution:
    """Return what speaks for the genre `chosen`, and what for `other`, in a window (S,) at the extractor's rate.

    The model must be in evaluation mode. Channels of a spectrogram are summed, since they are one sound.

    Raises:
        UserError: the model's features cannot be drawn, or no gradient comes back to them.
    """
    axes = spectrogram_axes(model.config)
    if family_of(model.config) == "muq":
        raise UserError("MuQ makes its spectrogram inside the model, where no gradient passes")
    name = feature_extractor.model_input_names[0]
    features = WindowCollator(feature_extractor)([{"samples": window, "label": 0}])[name]
    if axes is None and features.dim() != 2:
        raise UserError(f"of the features of {model.config.model_type}, time and frequency are not known")
    shares, margin = gradient_times_input(model, {name: features.to(model.device, model.dtype)}, chosen, other)
    seen, shares = (tensor[0].float().cpu().numpy() for tensor in (features, shares))
    if axes is None:
        return Attribution(seen, shares, margin)
    seen, shares = (np.moveaxis(array, axes[::-1], (-2, -1)) for array in (seen, shares))
    others = tuple(range(seen.ndim - 2))
    return Attribution(seen.mean(axis=others), shares.sum(axis=others), margin)


def gradient_times_input(
    model, inputs: Mapping[str, torch.Tensor], chosen: int, other: int
) -> tuple[torch.Tensor, float]:
    """Return gradient x input of the logit `chosen` minus the logit `other`, like the one tensor (1, ...) of `inputs`.

    The second value is that difference.
    """
    [(name, given)] = inputs.items()
    with torch.enable_grad():
        features = given.detach().clone().requires_grad_()
        logits = model(**{name: features}).logits[0]
        margin = logits[chosen] - logits[other]
        [gradient] = torch.autograd.grad(margin, features)
    return gradient * features.detach(), margin.item()
