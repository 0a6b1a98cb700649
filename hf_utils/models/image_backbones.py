"""Image checkpoints of transformers and timm as spectrogram CNNs."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoModel,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_utils.errors import UserError
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.spectrogram_cnn import (
    SpectrogramCNNConfig,
    SpectrogramCNNFeatureExtractor,
    SpectrogramCNNForAudioClassification,
)
from hf_utils.models.spectrogram_cnn.feature_extraction_spectrogram_cnn import SETTINGS
from hf_utils.models.spectrogram_cnn.modeling_spectrogram_cnn import pool_spectrograms

logger = logging.getLogger(__name__)


def is_image_model(config: PreTrainedConfig) -> bool:
    """Whether transformers can classify images by this kind of model."""
    return type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING


def make_spectrogram_cnn(
    checkpoint: Checkpoint,
    image_config: PreTrainedConfig,
    feature_extractor: SpectrogramCNNFeatureExtractor,
    window_samples: int,
    **head,
) -> SpectrogramCNNForAudioClassification:
    """Return a spectrogram CNN around an image checkpoint, with all weights of its backbone and an untrained head.

    Args:
        checkpoint: the image model.
        image_config: its configuration.
        feature_extractor: makes the spectrograms that the backbone must take.
        window_samples: length of the waveforms.
        head: the head options of `SpectrogramCNNConfig`.

    Raises:
        UserError: the weights do not fill the backbone, or it does not take the spectrograms.
    """
    with torch.device("meta"):
        full = checkpoint.make_model(AutoModelForImageClassification, image_config)
        base = checkpoint.make_model(AutoModel, image_config)
    # Before anything is loaded or computed. This sees wrong sizes of images, though not empty outputs.
    hidden_size = measure_width(base.eval(), feature_extractor, window_samples)
    prefix = f"{full.base_model_prefix}."
    inside = {key.removeprefix(prefix) for key in base.state_dict()}
    head_keys = frozenset(key for key in full.state_dict() if key.removeprefix(prefix) not in inside)

    backbone, _ = checkpoint.load_model(AutoModel, image_config, unused=head_keys)
    # The thousand ImageNet labels would otherwise stand in every saved configuration, beside the genres.
    backbone.config.num_labels = 2
    # Set by the outer model: else the backbone would be built in another type than its surroundings.
    backbone.config.dtype = None
    config = SpectrogramCNNConfig(backbone_config=backbone.config, hidden_size=hidden_size, **head)
    model = SpectrogramCNNForAudioClassification(config)
    model.backbone.load_state_dict(backbone.state_dict(), strict=True)
    return model.eval()


def measure_width(backbone: PreTrainedModel, feature_extractor, window_samples: int) -> int:
    """Return the length of the backbone's pooled output for one window. Raises UserError if it takes no such input."""
    spectrogram = _make_example(feature_extractor, window_samples)
    try:
        with torch.no_grad():
            return pool_spectrograms(backbone, spectrogram.to(backbone.device)).shape[1]
    except (ValueError, RuntimeError, AssertionError, TypeError) as error:
        _, channels, bins, frames = spectrogram.shape
        raise UserError(
            f"{backbone.config.model_type} does not take spectrograms of {channels} x {bins} bins x {frames} frames "
            f"({str(error).strip()}). Choose a convolutional model (ConvNeXt, ResNet, MobileNet, VGG ...): a vision "
            "transformer wants images of one size. For a very small spectrogram, take more bins or a shorter hop."
        ) from error


def make_extractor(
    saved: SpectrogramCNNFeatureExtractor | None, changes: Mapping[str, Any]
) -> SpectrogramCNNFeatureExtractor:
    """Return the extractor of a checkpoint with `changes`; statistics of another spectrogram are dropped.

    Raises:
        UserError: impossible settings.
    """
    new = {"center": False, "level_normalization": True}  # what older checkpoints do not have; docs/recipes.md has why
    settings = new if saved is None else {name: getattr(saved, name) for name in SETTINGS}
    if saved is not None and all(settings[name] == value for name, value in changes.items()):
        return saved
    try:
        extractor = SpectrogramCNNFeatureExtractor(**{**settings, **changes})
    except ValueError as error:
        raise UserError(str(error)) from error
    if extractor.spectrogram != "mel" and "num_mel_bins" in changes:
        raise UserError(
            f"num_mel_bins is {changes['num_mel_bins']}, but the spectrogram {extractor.spectrogram} has none"
        )
    if saved is not None:
        logger.warning(
            "The spectrogram is not the checkpoint's: %s. Its mean and deviation are not known yet.", dict(changes)
        )
    return extractor


def _make_example(feature_extractor: SpectrogramCNNFeatureExtractor, window_samples: int) -> torch.Tensor:
    """Return the spectrogram (1, C, F, T) of a silent window. Raises UserError for impossible settings."""
    extractor = copy.copy(feature_extractor)
    extractor.do_normalize = False
    try:
        return extractor(
            np.zeros(window_samples), sampling_rate=extractor.sampling_rate, return_tensors="pt"
        ).input_values
    except ValueError as error:
        raise UserError(f"the spectrogram cannot be computed: {error}") from error
