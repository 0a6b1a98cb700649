"""The parts of a classifier (backbone, front end, blocks), and which of them learn.

Everything goes by structure, and is counted, since names change between releases.
"""

import dataclasses

from torch import nn
from transformers import PreTrainedModel

from hf_utils.errors import UserError

MODES = ("none", "feature_encoder", "backbone", "all_but_last")


def find_backbone(model: PreTrainedModel) -> nn.Module:
    """Return what lies below the head: the module that transformers calls the base model, else the largest child."""
    named = getattr(model, model.base_model_prefix, None)
    if isinstance(named, nn.Module):
        return named
    # Whisper's classifier holds its encoder under another name than that of its base model.
    return max(model.children(), key=count_parameters)


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters, trained or not."""
    return sum(p.numel() for p in module.parameters())


@dataclasses.dataclass(frozen=True)
class Layers:
    """Names of a backbone's parameters.

    Attributes:
        front_end: of the layers that turn the input into features: convolutions, patch embedding, stem.
        blocks: of each repeated block (transformer layer, convolutional stage), first to last.
    """

    front_end: list[str]
    blocks: list[list[str]]


def find_layers(backbone: nn.Module) -> Layers:
    """Return the front end and the blocks of a backbone. Raises UserError where its structure does not show them."""
    # TimmWrapperModel keeps the model of timm in this attribute; timm itself knows the groups of its models.
    timm_model = getattr(backbone, "timm_model", None)
    layers = _find_layers(backbone) if timm_model is None else _find_timm_layers(timm_model)
    if not layers.blocks:
        raise UserError(
            f"{describe_backbone(backbone)} has no repeated blocks that could be told apart: leave --layer_decay and "
            "--lora_rank out, and choose --freeze none or backbone"
        )
    return layers


def describe_backbone(backbone: nn.Module) -> str:
    """Return the class of a backbone, or its name in timm, for messages."""
    architecture = getattr(getattr(backbone, "config", None), "architecture", None)
    return type(backbone).__name__ if architecture is None else f"{architecture} of timm"


def find_stack(backbone: nn.Module) -> str | None:
    """Return the name of the module list that holds the repeated blocks: the largest one. None if there is none."""
    lists = [name for name, module in backbone.named_modules() if isinstance(module, nn.ModuleList)]
    top = [name for name in lists if not any(name.startswith(other + ".") for other in lists)]
    return max(top, key=lambda name: count_parameters(backbone.get_submodule(name)), default=None)


def _find_layers(backbone: nn.Module) -> Layers:
    stack_name = find_stack(backbone)
    if stack_name is None:
        return Layers([], [])
    blocks = [
        [f"{stack_name}.{i}.{name}" for name, _ in block.named_parameters()]
        for i, block in enumerate(backbone.get_submodule(stack_name))
    ]
    front_end, prefix, above = [], "", backbone
    # CLAP's audio tower is one module within another.
    while len(children := list(above.named_children())) == 1 and f"{prefix}{children[0][0]}" != stack_name:
        prefix, above = f"{prefix}{children[0][0]}.", children[0][1]
    is_below = True
    for name, child in above.named_children():
        path = f"{prefix}{name}"
        is_below = is_below and not f"{stack_name}.".startswith(f"{path}.")
        # HuBERT's feature projection also precedes the stack, but by custom is no part of the feature encoder. CLAP
        # registers the batch norm of its input behind the stack.
        has_convolution = any(isinstance(module, nn.Conv1d | nn.Conv2d) for module in child.modules())
        if (is_below and has_convolution) or isinstance(child, nn.BatchNorm2d):
            front_end += [f"{path}.{parameter}" for parameter, _ in child.named_parameters()]
    return Layers(front_end, [block for block in blocks if block])


def _find_timm_layers(timm_model: nn.Module) -> Layers:
    from timm.models import group_parameters

    matcher = timm_model.group_matcher(coarse=True) if hasattr(timm_model, "group_matcher") else None
    if not isinstance(matcher, dict) or not {"stem", "blocks"} <= set(matcher):
        return Layers([], [])
    groups = {}
    for part in ("stem", "blocks"):
        numbered = group_parameters(timm_model, {part: matcher[part]})
        # What the pattern does not match comes back as one last group.
        groups[part] = [[f"timm_model.{name}" for name in numbered[i]] for i in range(len(numbered) - 1)]
    stem = [name for group in groups["stem"] for name in group]
    weights = {f"timm_model.{name}" for name, parameter in timm_model.named_parameters() if parameter.ndim > 1}
    blocks = []
    for group in groups["blocks"]:
        block = [name for name in group if name not in stem]
        # In a VGG timm counts every normalisation as a block; it belongs to the convolution before it.
        if weights.isdisjoint(block):
            (blocks[-1] if blocks else stem).extend(block)
        else:
            blocks.append(block)
    return Layers(stem, blocks)


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
    below = {*names[:first_trained], *layers.front_end}
    return [name for name in names if name in below]


def _front_end(layers: Layers, backbone: nn.Module) -> list[str]:
    if not layers.front_end:
        raise UserError(
            f"{type(backbone).__name__} has no convolutions below its blocks: choose --freeze none, backbone or "
            "all_but_last"
        )
    return layers.front_end


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """Return the largest modules whose parameters are all frozen: they belong in evaluation mode while others learn.

    Otherwise a frozen batch norm would go on changing its statistics, and dropout and HuBERT's time masks would make
    the output of a frozen backbone random. To be asked once per training: it looks at every parameter at every level.
    """
    learns = [p.requires_grad for p in model.parameters()]
    if learns and not any(learns):
        return [model]
    return [module for child in model.children() for module in frozen_modules(child)]
