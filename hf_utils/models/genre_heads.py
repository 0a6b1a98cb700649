"""The output layer of a classifier and the genres it stands for."""

import logging

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_utils.errors import UserError
from hf_utils.models.backbones import find_backbone

logger = logging.getLogger(__name__)


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
    if len(genres) < 2 or len(set(genres)) != len(genres):
        raise UserError(f"the genres are {genres}, expected at least two different ones")
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
    # AudioSet checkpoints are multi-label: they would be trained and read through sigmoids.
    model.config.problem_type = "single_label_classification"


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
        shown = ", ".join(old[:10]) + (" ..." if len(old) > 10 else "")
        logger.warning(
            "The checkpoint's %d labels (%s) are not the %d genres: its output layer is replaced by an untrained one.",
            len(old),
            shown,
            len(new),
        )
    else:
        logger.info("%s gets an untrained head for %d genres.", type(model).__name__, len(new))
