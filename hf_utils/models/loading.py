"""Any audio or image checkpoint as a genre classifier, ready for windows of one length."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    AutoModelForAudioClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

import hf_utils.models.sample_cnn  # noqa: F401  makes it known to the Auto classes
from hf_utils.errors import UserError
from hf_utils.listing import listing
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.families import disable_layer_drop, family_of, fit_ast_window, fit_masks, window_samples_for
from hf_utils.models.freezing import find_backbone
from hf_utils.models.heads import DEFAULT_HEAD, HeadOptions, keep_head, make_new_head, refuse_reading, wants_new_head
from hf_utils.models.image_backbones import is_image_model, make_extractor, make_spectrogram_cnn, measure_width
from hf_utils.models.music_encoders import HEADLESS_TYPES, fit_clap, fit_muq, make_muq_extractor

logger = logging.getLogger(__name__)


def load_classifier(
    checkpoint: Checkpoint,
    genres: list[str] | None,
    *,
    window_seconds: float | None = None,
    head: HeadOptions = DEFAULT_HEAD,
    spectrogram: Mapping[str, Any] | None = None,
    allow_new_head: bool = True,
) -> tuple[PreTrainedModel, Any]:
    """Return a classifier of `genres` in evaluation mode, and its feature extractor.

    Args:
        checkpoint: an audio model, taken as it is, or an image model, which becomes a spectrogram CNN. A folder with
            only a config.json gives random weights.
        genres: in the order of the outputs; None for the checkpoint's own, which may be a tagger's: see
            `families.probabilities_of`.
        window_seconds: length of the windows that it will see; None for the checkpoint's own, or 10 s.
        head: of a checkpoint that has none yet.
        spectrogram: settings of the CNN's feature extractor that the user gave, by their names there.
        allow_new_head: whether the head may be untrained, as that of a model which is about to be trained.

    Raises:
        UserError: the checkpoint cannot be read safely and completely, is of no use here, or contradicts the options.
    """
    config = checkpoint.load_config()
    if is_image_model(config) or family_of(config) == "spectrogram_cnn":
        model, feature_extractor, head_loaded = _load_cnn(checkpoint, config, window_seconds, head, spectrogram or {})
    else:
        _expect_audio_model(checkpoint.name, config, spectrogram)
        model, feature_extractor, head_loaded = _load_audio(checkpoint, config, window_seconds, head)
    if genres is None:
        _expect_own_genres(checkpoint.name, model.config, head_loaded)
        return model, feature_extractor
    if not allow_new_head:
        _expect_own_genres(checkpoint.name, model.config, head_loaded)
        if set(own_genres(model.config)) != set(genres):
            raise UserError(
                f"{checkpoint.name!r} tells {listing(own_genres(model.config), most=10)} apart, but the clips are of "
                f"{listing(genres, most=10)}: fine-tune it first, or pass a checkpoint that was"
            )
    set_genres(model, list(genres), head_loaded=head_loaded)
    return model, feature_extractor


def _load_cnn(
    checkpoint: Checkpoint,
    config: PreTrainedConfig,
    window_seconds: float | None,
    head: HeadOptions,
    spectrogram: Mapping[str, Any],
) -> tuple:
    """Return a spectrogram CNN, its extractor, and whether its head came with it: not from an image checkpoint."""
    is_new = is_image_model(config)
    has_extractor = not is_new and checkpoint.has_feature_extractor
    feature_extractor = make_extractor(
        checkpoint.load_feature_extractor(config) if has_extractor else None, spectrogram
    )
    window_samples = window_samples_for(config, feature_extractor, window_seconds)
    if is_new:
        refuse_reading(config.model_type, head)
        model = make_spectrogram_cnn(checkpoint, config, feature_extractor, window_samples, **head.of_new_head())
        head_loaded = False
    else:
        keep_head(config, head)
        model, head_loaded = checkpoint.load_model(AutoModelForAudioClassification, config)
    width = measure_width(model.backbone, feature_extractor, window_samples)
    if width != model.config.hidden_size:
        raise UserError(f"hidden_size in the config.json is {config.hidden_size}, but the backbone puts out {width}")
    model.config.window_seconds = window_samples / feature_extractor.sampling_rate
    return model, feature_extractor, head_loaded


def _expect_audio_model(name: str, config: PreTrainedConfig, spectrogram: Mapping[str, Any] | None) -> None:
    own_code = getattr(config, "auto_map", None) or {}
    if (
        type(config) not in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING
        and config.model_type not in HEADLESS_TYPES
        and AutoModelForAudioClassification.__name__ not in own_code
    ):
        supported = ", ".join(
            sorted(["clap", "mert", "muq", *(c.model_type for c in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING)])
        )
        brought = f", whose code brings {', '.join(own_code)}" if own_code else ""
        raise UserError(
            f"{name!r} is a model of type {config.model_type}{brought}, expected an audio model ({supported}, or one "
            "whose code brings AutoModelForAudioClassification) or an image classification model (ConvNeXt, ResNet, "
            "timm ...)"
        )
    if spectrogram:
        raise UserError(
            f"{', '.join(spectrogram)}: these options are for spectrogram CNNs, but {name!r} ({config.model_type}) "
            "brings its own features. Leave them out."
        )


def _load_audio(
    checkpoint: Checkpoint, config: PreTrainedConfig, window_seconds: float | None, head: HeadOptions
) -> tuple:
    """Return an audio model, its extractor, and whether its head came with it."""
    encoder_config = getattr(config, "encoder_config", config)
    disable_layer_drop(encoder_config)
    if config.model_type == "muq":
        feature_extractor = make_muq_extractor(config)
    else:
        feature_extractor = checkpoint.load_feature_extractor(encoder_config)
    if wants_new_head(config, head):
        model, head_loaded = make_new_head(checkpoint, config, head), False
    else:
        if hasattr(config, "head_dropout"):
            keep_head(config, head)
        elif head.head_dropout is not None:
            raise UserError(
                f"head_dropout is {head.head_dropout}, but the linear head of {config.model_type} has no dropout: "
                "choose --head mlp, or leave it out"
            )
        model, head_loaded = checkpoint.load_model(AutoModelForAudioClassification, config)
    _fit_window(model, feature_extractor, window_seconds)
    return model, feature_extractor, head_loaded


def _fit_window(model: PreTrainedModel, feature_extractor, window_seconds: float | None) -> None:
    """Make an audio model, its configuration and its extractor agree on one window."""
    family = family_of(model.config)
    if family == "spectrogram_transformer":
        fit_ast_window(find_backbone(model), feature_extractor, window_seconds)
    window_samples = window_samples_for(model.config, feature_extractor, window_seconds)
    if family == "clap":
        fit_clap(find_backbone(model), feature_extractor)
    if family == "muq":
        fit_muq(find_backbone(model).config, window_samples)
    if family == "waveform":
        fit_masks(model, feature_extractor, window_samples)
    if family != "spectrogram_transformer":  # which has it in its own `max_length`
        model.config.window_seconds = window_samples / feature_extractor.sampling_rate


def _expect_own_genres(name: str, config: PreTrainedConfig, head_loaded: bool) -> None:
    """Raise UserError unless a checkpoint says by itself which genres its outputs are."""
    if not head_loaded:
        raise UserError(f"{name!r} has no trained head: fine-tune it first, or pass a checkpoint that was")
    if config.problem_type == "regression":
        raise UserError(f"{name!r} was trained for regression (problem_type), not to tell genres apart")
    _expect_distinct(own_genres(config))


def own_genres(config: PreTrainedConfig) -> list[str]:
    """Return the labels of a configuration in the order of its outputs."""
    return [config.id2label[i] for i in range(config.num_labels)]


def set_genres(model: PreTrainedModel, genres: list[str], *, head_loaded: bool) -> None:
    """Make `model` put out exactly `genres`, in this order.

    A loaded head for the same genres stays, its outputs reordered where the order differs. Any other head gets a new
    output layer, also where the number of genres happens to agree.

    Args:
        model: a classifier whose configuration holds its present labels.
        genres: distinct names, at least two.
        head_loaded: whether the head holds trained weights for its labels.
    """
    _expect_distinct(genres)
    old = own_genres(model.config)
    name, layer = _find_output_layer(model)
    if head_loaded and set(old) == set(genres):
        _reorder(layer, [old.index(genre) for genre in genres])
    else:
        _log_replacement(model, old, genres, head_loaded)
        new = nn.Linear(layer.in_features, len(genres), bias=layer.bias is not None)
        new.to(layer.weight.device, layer.weight.dtype)
        model._init_weights(new)
        model.set_submodule(name, new)
    model.num_labels = len(genres)
    model.config.id2label = dict(enumerate(genres))
    model.config.label2id = {genre: i for i, genre in enumerate(genres)}
    # A tagger's, as AudioSet's, would be trained and read through sigmoids.
    model.config.problem_type = "single_label_classification"


def _expect_distinct(genres: list[str]) -> None:
    if len(genres) < 2 or len(set(genres)) != len(genres):
        raise UserError(f"the genres are {genres}, expected at least two different ones")


def _find_output_layer(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """Return the last linear layer above the backbone, and its name."""
    inside = {id(module) for module in find_backbone(model).modules()}
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and id(m) not in inside]
    if not layers or layers[-1][1].out_features != model.config.num_labels:
        raise UserError(f"{type(model).__name__} has no linear output layer of {model.config.num_labels} labels")
    return layers[-1]


@torch.no_grad()
def _reorder(layer: nn.Linear, order: list[int]) -> None:
    layer.weight.copy_(layer.weight[order].clone())
    if layer.bias is not None:
        layer.bias.copy_(layer.bias[order].clone())


def _log_replacement(model: PreTrainedModel, old: list[str], new: list[str], head_loaded: bool) -> None:
    if head_loaded:
        logger.warning(
            "The checkpoint's %d labels (%s) are not the %d genres: its output layer is replaced by an untrained one.",
            len(old),
            listing(old, most=10),
            len(new),
        )
    else:
        logger.info("%s gets an untrained head for %d genres.", type(model).__name__, len(new))
