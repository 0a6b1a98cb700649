"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): a backbone learns by small matrices beside its weights.

A layer of weight W (O, I) then computes (W + B A) x. A (R, I) and B (O, R) learn, and W does not; B begins at 0, so
the model begins as it was. R is the rank, and the scale of B A is 1 (peft's `lora_alpha` is R).

peft makes the layers. Nothing else of it is used, and others need none of it: a model is saved with W + B A for W.
That sum cannot be taken apart again, so what has learned, A and B and the head, is saved beside it, in peft's format.
A training goes on from that, and the best checkpoint is reloaded from it.
"""

import copy
import dataclasses
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from hf_utils.errors import UserError
from hf_utils.files import ADAPTER_FILE, ADAPTER_FOLDER
from hf_utils.listing import listing
from hf_utils.models.freezing import describe_backbone, find_backbone, find_layers
from hf_utils.models.weights import find_damage

_NAME = "default"  # of the adapter, as peft has it where there is one


@dataclasses.dataclass(frozen=True)
class AdaptedLayers:
    """What became of the linear layers of a backbone's blocks, by their names in the model.

    Attributes:
        rank: of the adapters.
        adapted: those that have an adapter.
        bypassed: those whose output has no effect on the model's. The code of WavLM's attention reads their weights
            and never calls them, so that an adapter would learn nothing.
        small: those that an adapter of this rank would not be smaller than.
    """

    rank: int
    adapted: list[str]
    bypassed: list[str]
    small: list[str]

    def describe(self) -> str:
        """Return how many layers have an adapter and how many have none, in one line, with the last parts of names."""
        counts = [
            (self.adapted, f"have an adapter (LoRA) of rank {self.rank}"),
            (self.bypassed, "have none, since the model's code reads their weights past them"),
            (self.small, f"have none, being no larger than rank {self.rank}"),
        ]
        parts = [f"{len(names)} {what} ({_list_kinds(names)})" for names, what in counts if names]
        return f"Linear layers: {'; '.join(parts) or 'none that learns'}"


def _list_kinds(names: list[str]) -> str:
    return listing(sorted({name.rpartition(".")[2] for name in names}), most=10)


def add_adapters(model: PreTrainedModel, rank: int, inputs: Mapping[str, torch.Tensor]) -> AdaptedLayers:
    """Give linear layers of the backbone's blocks adapters, which learn in the place of all of the backbone.

    Layers that are frozen get none; the head learns as it did.

    Args:
        model: a classifier in evaluation mode, with what is frozen frozen.
        inputs: of the model, for one window; it shows which layers have an effect.

    Raises:
        UserError: no layer can have an adapter.
    """
    layers = _sort_layers(model, rank, inputs)
    if not layers.adapted:
        raise UserError(
            f"lora_rank is {rank}: adapters go into the linear layers of repeated blocks, as transformers and most "
            f"ConvNeXts have them, and {describe_backbone(find_backbone(model))} has none to adapt. "
            f"{layers.describe()}. Leave lora_rank out, or choose another rank or --freeze"
        )
    head = [tensor for tensor in _split_off_head(model).values() if tensor.requires_grad]
    peft = _import_peft()
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=layers.adapted), model, adapter_name=_NAME
    )
    found = sorted(adapted_layers(model))
    assert found == sorted(layers.adapted), f"peft adapted {len(found)} layers, not {len(layers.adapted)}"
    for parameter in head:  # peft freezes all but its own
        parameter.requires_grad_(True)
    return layers


def _import_peft():
    """Return peft, which `hf_utils/__init__.py` keeps out of sight of transformers."""
    if sys.modules.get("peft") is None:
        sys.modules.pop("peft", None)
    return importlib.import_module("peft")


def _sort_layers(model: PreTrainedModel, rank: int, inputs: Mapping[str, torch.Tensor]) -> AdaptedLayers:
    backbone = find_backbone(model)
    parameters = dict(backbone.named_parameters())
    inside = {id(parameters[name]) for block in find_layers(backbone).blocks for name in block}
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module.weight) in inside and module.weight.requires_grad
    }
    effective = _find_effective(model, linear, inputs)
    small = [name for name, module in linear.items() if rank >= min(module.weight.shape)]
    return AdaptedLayers(
        rank,
        adapted=[name for name in linear if name in effective and name not in small],
        bypassed=[name for name in linear if name not in effective],
        small=[name for name in small if name in effective],
    )


def _find_effective(
    model: PreTrainedModel, layers: Mapping[str, nn.Module], inputs: Mapping[str, torch.Tensor]
) -> set[str]:
    """Return the names of those layers whose output has an effect on the model's: its logits have a gradient there."""
    outputs = []
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output, name=name: outputs.append((name, output)))
        for name, layer in layers.items()
    ]
    try:
        with torch.enable_grad():
            logits = model(**inputs).logits
    finally:
        for hook in hooks:
            hook.remove()
    if not outputs:
        return set()
    gradients = torch.autograd.grad(logits.square().sum(), [output for _, output in outputs], allow_unused=True)
    return {
        name for (name, _), gradient in zip(outputs, gradients, strict=True) if gradient is not None and gradient.any()
    }


def adapted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that have an adapter, by their names; {} for a model without adapters."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a model with adapters as that of the model that it was, with W + B A for W."""
    state = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in adapted_layers(model).items():
        state[f"{name}.weight"] = layer.weight + layer.get_delta_weight(_NAME)
    return state


def merge_adapters(model: nn.Module) -> None:
    """Make a model with adapters the model that `merged_state` describes; one without them stays as it is."""
    layers = adapted_layers(model)
    for name, layer in layers.items():
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    if layers:
        del model.peft_config


def save_adapters(model: PreTrainedModel, folder: str | Path) -> None:
    """Write what has learned, adapters and head, into a folder inside `folder`, for `reload_adapters` or for peft.

    transformers takes every folder with such a configuration for an adapter alone, so the model's own has none.
    """
    place = Path(folder, ADAPTER_FOLDER)
    config = copy.copy(model.peft_config[_NAME])
    config.target_modules = sorted(config.target_modules)  # a set, in another order each time
    config.modules_to_save = sorted({name.split(".")[0] for name in _split_off_head(model)})
    config.inference_mode = True
    config.save_pretrained(place)
    state = {name: tensor.contiguous() for name, tensor in _learned_state(model).items()}
    save_file(state, place / ADAPTER_FILE, metadata={"format": "pt"})


@torch.no_grad()
def reload_adapters(model: PreTrainedModel, folder: str | Path) -> None:
    """Copy adapters and head that `save_adapters` wrote into `model`, all of them. The rest of it never learns.

    Raises:
        UserError: `folder` has none, a file is not whole, or they are not those of this model.
    """
    path = Path(folder, ADAPTER_FOLDER, ADAPTER_FILE)
    if not path.is_file():
        raise UserError(f"{folder} has no {ADAPTER_FOLDER}/{path.name}: its training had no --lora_rank. Leave it out")
    if damage := find_damage(path):
        raise UserError(f"{path} {damage}")
    saved, state = load_file(path), _learned_state(model)
    shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in (saved, state)]
    if shapes[0] != shapes[1]:
        raise UserError(f"the adapters in {path} are not those of this model. Was it trained otherwise?")
    for name, tensor in state.items():
        tensor.copy_(saved[name])


def _learned_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return adapters and head, the model's own tensors, by the names that peft's files have for them."""
    state = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" in name}
    named = {name.replace(f".{_NAME}.", "."): tensor for name, tensor in state.items()} | _split_off_head(model)
    return {f"base_model.model.{name}": tensor for name, tensor in named.items()}


def _split_off_head(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return parameters and buffers above the backbone, by their names."""
    backbone = find_backbone(model)
    path = next(name for name, module in model.named_modules() if module is backbone)
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if not name.startswith(f"{path}.")}
