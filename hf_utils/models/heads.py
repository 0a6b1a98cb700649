"""New heads on the encoders of audio checkpoints, and what a head reads of them."""

import copy
import dataclasses
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoModelForAudioClassification, PreTrainedConfig, PreTrainedModel

from hf_utils.errors import UserError
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.encoder_mlp import EncoderMLPConfig, EncoderMLPForAudioClassification
from hf_utils.models.families import family_of
from hf_utils.models.freezing import find_stack
from hf_utils.models.music_encoders import HEADLESS_TYPES
from hf_utils.models.musicnn import MusiCNNForAudioClassification


@dataclasses.dataclass(frozen=True)
class HeadOptions:
    """The head of a checkpoint that was not fine-tuned here, and what it reads; one that was brings its own.

    Attributes:
        head: "linear" or "mlp" (two layers); None for the checkpoint's own, or linear.
        head_hidden_size: units between the two layers of "mlp"; None for the checkpoint's own, or 512.
        head_dropout: dropout before each layer; None for the checkpoint's own, or 0.1.
        head_pooling: of what the encoder puts out over time, "mean" or "mean_max"; None for the model's own.
        feature_layer: "last", the number of the encoder's layer, from 1, or "all" for a learned weighted sum.
        standardize_features: whether the head standardises its features by those of the training windows.
    """

    head: str | None = None
    head_hidden_size: int | None = None
    head_dropout: float | None = None
    head_pooling: str | None = None
    feature_layer: str = "last"
    standardize_features: bool = False

    @property
    def reading(self) -> dict[str, Any]:
        """The options that say what the head reads, as far as they are given."""
        return {
            name: getattr(self, name)
            for name, default in (("head_pooling", None), ("feature_layer", "last"), ("standardize_features", False))
            if getattr(self, name) != default
        }

    def of_new_head(self) -> dict[str, Any]:
        """Return the options of the head itself by name, with a value for each."""
        given = {name: getattr(self, name) for name in ("head", "head_hidden_size", "head_dropout")}
        defaults = {"head": "linear", "head_hidden_size": 512, "head_dropout": 0.1}
        return defaults | {name: value for name, value in given.items() if value is not None}


DEFAULT_HEAD = HeadOptions()

# Deviations below this part of the mean are rounding of float32, which another machine does in another way.
_ROUNDING = 1e-5


def wants_new_head(config: PreTrainedConfig, head: HeadOptions) -> bool:
    """Return whether the options ask for a head of ours in place of an audio checkpoint's own kind of head."""
    if config.model_type == "musicnn":
        return config.head == "norm_mlp" and (head.head is not None or bool(head.reading))
    if config.model_type in HEADLESS_TYPES:
        return True
    return not hasattr(config, "head_dropout") and (head.head == "mlp" or bool(head.reading))


def make_new_head(checkpoint: Checkpoint, config: PreTrainedConfig, head: HeadOptions) -> PreTrainedModel:
    """Return the encoder of an audio checkpoint, with all of its weights, under an untrained head of ours.

    Raises:
        UserError: the head does not fit this kind of model, or the weights do not fill the encoder.
    """
    return (_change_musicnn if config.model_type == "musicnn" else _wrap_encoder)(checkpoint, config, head)


def _change_musicnn(
    checkpoint: Checkpoint, config: PreTrainedConfig, head: HeadOptions
) -> MusiCNNForAudioClassification:
    if head.feature_layer != "last":
        raise UserError(
            f"feature_layer is {head.feature_layer}, but the head of musicnn reads what all of its layers put out: "
            "leave it out"
        )
    tagger, _ = checkpoint.load_model(AutoModelForAudioClassification, config)
    config = copy.deepcopy(config)
    config.update(head.of_new_head() | head.reading)
    model = MusiCNNForAudioClassification(config)
    model.backbone.load_state_dict(tagger.backbone.state_dict(), strict=True)
    return model.eval()


def _wrap_encoder(
    checkpoint: Checkpoint, config: PreTrainedConfig, head: HeadOptions
) -> EncoderMLPForAudioClassification:
    family = family_of(config)
    if family == "other":
        given = ", ".join(f"--{name} {value}" for name, value in ({"head": head.head} | head.reading).items() if value)
        raise UserError(f"{given}: this is for AST, CLAP and models that read waveforms, not for {config.model_type}")
    if family == "clap" and head.feature_layer != "last":
        raise UserError(
            f"feature_layer is {head.feature_layer}, but the layers of CLAP have several widths: leave it out"
        )
    encoder, _ = checkpoint.load_model(AutoModel, config)
    # `ClapAudioModel.from_pretrained` of transformers 5.23 finds no weight in a checkpoint of both towers.
    encoder = getattr(encoder, "audio_model", encoder)
    # The outer model has labels and type; those of AudioSet would be saved beside the genres.
    encoder.config.num_labels, encoder.config.problem_type, encoder.config.dtype = 2, None, None
    if head.feature_layer.isdecimal():
        _cut_above(encoder, int(head.feature_layer))
    model = EncoderMLPForAudioClassification(
        EncoderMLPConfig(encoder_config=encoder.config, **head.of_new_head(), **head.reading)
    )
    model.encoder.load_state_dict(encoder.state_dict(), strict=True)
    return model.eval()


def _cut_above(encoder: PreTrainedModel, num_layers: int) -> None:
    """Leave an encoder its first `num_layers` transformer layers; what follows its last one then follows this."""
    stack = encoder.get_submodule(find_stack(encoder))
    if len(stack) != encoder.config.num_hidden_layers:
        raise UserError(
            f"feature_layer is {num_layers}, but the layers of {type(encoder).__name__} cannot be told apart: choose "
            "last or all"
        )
    if num_layers > len(stack):
        raise UserError(
            f"feature_layer is {num_layers}, but {type(encoder).__name__} has {len(stack)} layers: choose 1 to "
            f"{len(stack)}, last or all"
        )
    del stack[num_layers:]
    encoder.config.num_hidden_layers = num_layers


def keep_head(config: PreTrainedConfig, head: HeadOptions) -> None:
    """Apply the head options to a checkpoint that brings its head. Raises UserError for another head than its own."""
    if not hasattr(config, "standardize_features"):
        refuse_reading(config.model_type, head)
    own = {"head": "mlp", "head_pooling": None, "feature_layer": "last", "standardize_features": False}
    own = {name: getattr(config, name, default) for name, default in own.items()}
    for name, value in ({"head": head.head} | head.reading).items():
        if value not in (None, own[name]):
            raise UserError(
                f"--{name} {value} contradicts the checkpoint, whose {name} is {own[name]}: start from the model that "
                "it was made from instead"
            )
    if head.head_hidden_size is not None and head.head_hidden_size != config.head_hidden_size:
        raise UserError(f"head_hidden_size is {head.head_hidden_size}, but the checkpoint's {config.head_hidden_size}")
    if head.head_dropout is not None:
        config.head_dropout = head.head_dropout


def refuse_reading(model_type: str, head: HeadOptions) -> None:
    """Raise UserError if options say what the head reads, since this model's reads what its backbone pools."""
    if head.reading:
        raise UserError(
            f"{', '.join(head.reading)}: this is for AST, CLAP, MusiCNN and models that read waveforms (HuBERT ...), "
            f"not for {model_type}. Leave it out."
        )


def find_standardization(model: PreTrainedModel) -> nn.Module | None:
    """Return the part of a head that standardises features, or None. Its `num_windows` is 0 before they are known."""
    return model.readout[0] if getattr(model.config, "standardize_features", False) else None


def fit_standardization(standardization: nn.Module, features: np.ndarray) -> None:
    """Set the mean and the deviation of features (W, ...) of W windows; those that never change are left unscaled."""
    shape = standardization.mean.shape
    # Here, since tagging files needs no scikit-learn, and waits a second for it.
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features.reshape(len(features), -1).astype(np.float64))
    standardization.mean.copy_(torch.from_numpy(scaler.mean_).reshape(shape))
    scale = np.where(scaler.scale_ < _ROUNDING * np.abs(scaler.mean_), 1.0, scaler.scale_)
    standardization.std.copy_(torch.from_numpy(scale).reshape(shape))
    standardization.num_windows.fill_(len(features))
