"""Which parameters learn. Everything goes by structure, and is counted, since names change between releases."""

from torch import nn
from transformers import PreTrainedModel

from hf_utils.errors import UserError
from hf_utils.models.backbones import Layers, find_backbone, find_layers

MODES = ("none", "feature_encoder", "backbone", "all_but_last")


def freeze(model: PreTrainedModel, mode: str, unfrozen_layers: int = 1) -> tuple[int, int]:
    """Stop the parameters that `mode` names from learning; return the numbers of trainable and of all parameters.

    Args:
        model: a freshly loaded classifier. What it keeps fixed by itself stays fixed.
        mode: "none"; "feature_encoder" (the convolutions or patch embedding at the input); "backbone" (all but the
            head); "all_but_last" (as backbone, without its last blocks and what follows them).
        unfrozen_layers: blocks that learn under "all_but_last": transformer layers, or stages of a convolutional net.

    Raises:
        UserError: the model's structure does not offer what is asked.
    """
    backbone = find_backbone(model)
    parameters = dict(backbone.named_parameters())
    frozen = _choose(list(parameters), mode, unfrozen_layers, backbone)
    for name in frozen:
        parameters[name].requires_grad_(False)
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert mode == "none" or 0 < trainable < total, f"{mode} leaves {trainable} of {total} parameters trainable"
    return trainable, total


def _choose(names: list[str], mode: str, unfrozen_layers: int, backbone: nn.Module) -> list[str]:
    """Return the names of the backbone's parameters to freeze."""
    if mode == "none":
        return []
    if mode == "backbone":
        return names
    if mode not in MODES:
        raise UserError(f"freeze is {mode!r}, expected one of {', '.join(MODES)}")
    layers = find_layers(backbone)
    if mode == "feature_encoder":
        return _front_end(layers, backbone)
    if not 1 <= unfrozen_layers <= len(layers.blocks):
        raise UserError(
            f"unfrozen_layers is {unfrozen_layers}, but {type(backbone).__name__} has {len(layers.blocks)} blocks "
            "(transformer layers, or stages of a convolutional net): choose 1 to "
            f"{len(layers.blocks)}, or --freeze none to train everything"
        )
    # Parameters are registered in the order of the forward pass, so what precedes the block lies below it.
    first_trained = min(names.index(name) for name in layers.blocks[-unfrozen_layers])
    return names[:first_trained]


def _front_end(layers: Layers, backbone: nn.Module) -> list[str]:
    if not layers.front_end:
        raise UserError(
            f"{type(backbone).__name__} has no convolutions below its blocks: choose --freeze none, backbone or "
            "all_but_last"
        )
    return layers.front_end


def keep_frozen_in_eval(model: nn.Module) -> None:
    """Put every module whose parameters are all frozen into evaluation mode; call it after `model.train()`.

    Otherwise a frozen batch norm would go on changing its statistics, and dropout and HuBERT's time masks would make
    the output of a frozen backbone random.
    """
    parameters = list(model.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        model.eval()
        return
    for child in model.children():
        keep_frozen_in_eval(child)
