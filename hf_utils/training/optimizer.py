"""Parameter groups: a learning rate for the head, and rates that fall from block to block towards the input.

The rule is that of BEiT (Bao et al. 2021, arXiv 2106.08254) and of timm's `param_groups_layer_decay`: with n blocks,
block i learns at layer_decay^(n + 1 - i) times the learning rate, what is below the blocks at layer_decay^(n + 1), and
what is above them at 1. timm asks its own models for their layers. Ours are those that freezing knows, so that a block
is the same for `--unfrozen_layers` and for `--layer_decay`, in every family.
"""

import dataclasses
import logging
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_optimizer import is_optimizer_factory

from hf_utils.errors import UserError
from hf_utils.models.freezing import find_backbone, find_layers

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Level:
    """Parameters that learn at one rate.

    Attributes:
        name: of the part of the model, for the log.
        parameters: names in the model, of what learns.
        learning_rate: highest of the schedule.
    """

    name: str
    parameters: list[str]
    learning_rate: float


def assign_learning_rates(
    model: nn.Module, learning_rate: float, head_learning_rate: float | None, layer_decay: float
) -> list[Level]:
    """Return the levels of a model that learn, from the top to the input; a head with a rate of its own comes last.

    The Trainer logs the rate of the first.

    Args:
        model: a classifier, with what is frozen frozen; or a head without a backbone.
        head_learning_rate: None for `learning_rate`.
        layer_decay: 1 for one rate in the whole backbone.

    Raises:
        UserError: as `find_layers`, where `layer_decay` is below 1.
    """
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    head_rate = learning_rate if head_learning_rate is None else head_learning_rate
    if not isinstance(model, PreTrainedModel):
        return [Level("head", list(names.values()), head_rate)]
    backbone = find_backbone(model)
    inside = dict(backbone.named_parameters())
    if layer_decay == 1:
        parts = [("backbone", 1.0, list(inside))]
    else:
        parts = _split_by_depth(backbone, list(inside), layer_decay)
    body = {id(p) for p in inside.values()}
    head = Level("head", [name for key, name in names.items() if key not in body], head_rate)
    levels = []
    for part, scale, members in parts:
        learning = [names[id(inside[name])] for name in members if id(inside[name]) in names]
        levels.append(Level(part, learning, learning_rate * scale))
    levels = [head, *levels] if head_learning_rate is None else [*levels, head]
    return [level for level in levels if level.parameters]


def _split_by_depth(backbone: nn.Module, names: Sequence[str], decay: float) -> list[tuple[str, float, list[str]]]:
    """Return name, factor and parameters of what is above the blocks, of each block, and of what is below them.

    Parameters are registered in the order of the forward pass, as freezing takes it, too; one that is between two
    blocks belongs to the lower.
    """
    layers = find_layers(backbone)
    blocks, front_end = layers.blocks, set(layers.front_end)
    block_of = {name: number for number, block in enumerate(blocks, start=1) for name in block}
    top = len(blocks) + 1
    last = max(index for index, name in enumerate(names) if name in block_of)
    parts, current = {number: [] for number in range(top, -1, -1)}, 0
    for index, name in enumerate(names):
        current = top if index > last else block_of.get(name, current)
        parts[0 if name in front_end else current].append(name)
    titles = {top: "above the blocks", 0: "below the blocks"}
    return [(titles.get(n, f"block {n}"), decay ** (top - n), members) for n, members in parts.items()]


def make_parameter_groups(
    model: nn.Module, levels: Sequence[Level], decayed: Collection[str], weight_decay: float
) -> list[dict[str, Any]]:
    """Return groups for an optimiser: for each level, parameters with weight decay and those without; none is empty.

    Args:
        decayed: names of the parameters that have weight decay.
    """
    parameters, decayed, groups = dict(model.named_parameters()), set(decayed), []
    for level in levels:
        for has_decay in (True, False):
            members = [parameters[name] for name in level.parameters if (name in decayed) is has_decay]
            if members:
                rate = {"lr": level.learning_rate, "weight_decay": weight_decay if has_decay else 0.0}
                groups.append({"params": members, **rate})
    return groups


def check_optimizer(optim: str, optimizer_class: Any, optimizer_options: dict[str, Any]) -> None:
    """Raise UserError for an optimiser of the Trainer that makes its own groups: ours would be lost."""
    if is_optimizer_factory(optimizer_class) or optimizer_options.keys() & {"params", "model", "optimizer_dict"}:
        raise UserError(
            f"optim is {optim}, which groups parameters by itself, so head_learning_rate and layer_decay would do "
            "nothing: leave them out, or choose another optimiser, such as adamw_torch"
        )


def describe_levels(model: nn.Module, levels: Sequence[Level]) -> str:
    """Return one line per level: its learning rate, tensors and numbers."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    lines = [
        f"  {level.name}: {level.learning_rate:.3g}, {len(level.parameters)} tensors, "
        f"{sum(sizes[name] for name in level.parameters):,} parameters"
        for level in levels
    ]
    return "Highest learning rates:\n" + "\n".join(lines)
