"""Adapters: which layers get one, that each has an effect, merged as unmerged, and what is saved of them."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import load, saved
from torch import nn
from transformers import ASTForAudioClassification

from hf_utils.errors import UserError
from hf_utils.files import ADAPTER_FILE, ADAPTER_FOLDER
from hf_utils.models.adapters import (
    adapted_layers,
    add_adapters,
    merge_adapters,
    merged_state,
    reload_adapters,
    save_adapters,
)
from hf_utils.models.families import window_samples_for
from hf_utils.models.features import make_example
from hf_utils.models.freezing import find_backbone, freeze
from hf_utils.models.weights import reload_weights

ROOT = Path(__file__).resolve().parents[2]
RANK = 4
# Layers of an attention and of what follows it, times blocks; a ConvNeXt has two in each of its five layers.
NUM_ADAPTED = {"ast": 6 * 3, "hubert": 6 * 3, "wav2vec2": 6 * 3, "mert": 6 * 3, "whisper": 6 * 2, "convnext": 2 * 5}
NUM_ADAPTED |= {"wavlm": 3 * 3}  # what follows it, and the gate of its positions
NUM_ADAPTED |= {"clap": 6 * 4 + 3}  # and what halves the grid between four stages
OWN_WINDOW = ("whisper", "clap")  # which take no other


def make_adapted(name, tmp_path_factory, *, mode="none", unfrozen_layers=1, rank=RANK, **head):
    """Return a model with adapters, the input of one window, and what `add_adapters` tells."""
    torch.manual_seed(0)
    seconds = None if name in OWN_WINDOW else 1.0
    model, extractor = load(saved(name, tmp_path_factory), window_seconds=seconds, **head)
    freeze(model, mode, unfrozen_layers)
    inputs = make_example(extractor, window_samples_for(model.config, extractor, seconds))
    return model, inputs, add_adapters(model, rank, inputs)


@torch.no_grad()
def teach(model):
    """Give all adapters and the head other values, as a training does."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


@torch.no_grad()
def logits_of(model, inputs):
    return model(**inputs).logits


@pytest.mark.parametrize("name", NUM_ADAPTED)
def test_every_adapter_has_an_effect_and_nothing_else_of_the_backbone_learns(name, tmp_path_factory):
    model, inputs, layers = make_adapted(name, tmp_path_factory)
    assert len(layers.adapted) == NUM_ADAPTED[name] == len(adapted_layers(model))
    inside = {id(p) for p in find_backbone(model).parameters()}
    for parameter_name, parameter in model.named_parameters():
        assert parameter.requires_grad == (".lora_" in parameter_name or id(parameter) not in inside), parameter_name
    inputs = {key: value.double() for key, value in inputs.items()}
    before = logits_of(model.double(), inputs)
    for layer in adapted_layers(model).values():
        b = layer.lora_B["default"].weight
        assert not b.any() and b.shape[1] == RANK
        nn.init.normal_(b)
        assert not torch.equal(logits_of(model, inputs), before)
        nn.init.zeros_(b)


def test_layers_that_are_read_past_get_none(tmp_path_factory):
    """peft alone would give WavLM's attention adapters that do nothing, whatever they hold."""
    import peft

    model, inputs, layers = make_adapted("wavlm", tmp_path_factory)
    assert {name.rpartition(".")[2] for name in layers.bypassed} == {"k_proj", "q_proj", "v_proj", "out_proj"}
    assert len(layers.bypassed) == 4 * 3 and "12 have none" in layers.describe()
    model, _ = load(saved("wavlm", tmp_path_factory))
    before = logits_of(model, inputs)
    peft.inject_adapter_in_model(peft.LoraConfig(r=RANK, target_modules=layers.bypassed), model)
    for layer in adapted_layers(model).values():
        nn.init.ones_(layer.lora_B["default"].weight)
    assert len(adapted_layers(model)) == 12 and torch.equal(logits_of(model, inputs), before)


def test_frozen_layers_get_none(tmp_path_factory):
    _, _, layers = make_adapted("ast", tmp_path_factory, mode="all_but_last", unfrozen_layers=2)
    assert len(layers.adapted) == 6 * 2 and not any(".layers.0." in name for name in layers.adapted)


def test_layers_no_larger_than_the_rank_get_none(tmp_path_factory):
    """The gate of WavLM's positions puts out 8 numbers."""
    _, _, layers = make_adapted("wavlm", tmp_path_factory, rank=8)
    assert {name.rpartition(".")[2] for name in layers.small} == {"gru_rel_pos_linear"} and len(layers.adapted) == 6


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet", {}, "lora_rank is 4.*ResNetModel has none to adapt.*none that learns.*--freeze"),
        ("timm_resnet", {}, "resnet18 of timm has none to adapt"),
        ("musicnn", {}, "MusiCNNBackbone has none to adapt"),
        ("ast", {"mode": "backbone"}, "none that learns"),
        ("ast", {"rank": 16}, "18 have none, being no larger"),
    ],
)
def test_what_cannot_be_adapted_is_refused(name, options, words, tmp_path_factory):
    with pytest.raises(UserError, match=words):
        make_adapted(name, tmp_path_factory, **options)


@pytest.mark.parametrize(
    ("name", "head"), [*((name, {}) for name in NUM_ADAPTED), ("hubert", {"feature_layer": "all", "head": "mlp"})]
)
def test_merged_is_as_unmerged_and_needs_no_adapters(name, head, tmp_path_factory, tmp_path):
    model, inputs, _ = make_adapted(name, tmp_path_factory, **head)
    before = logits_of(model, inputs)
    teach(model)
    unmerged, state = logits_of(model, inputs), {n: t.clone() for n, t in merged_state(model).items()}
    assert (unmerged - before).abs().max() > 1e-3
    plain, _ = load(saved(name, tmp_path_factory), window_seconds=None if name in OWN_WINDOW else 1.0, **head)
    plain.load_state_dict(state, strict=True)
    torch.testing.assert_close(logits_of(plain, inputs), unmerged, rtol=0, atol=1e-5)
    merge_adapters(model)
    assert adapted_layers(model) == {} and not hasattr(model, "peft_config")
    merged = model.state_dict()
    assert merged.keys() == state.keys() and all(torch.equal(merged[n], state[n]) for n in state)
    model.save_pretrained(tmp_path)
    reload_weights(plain, tmp_path)
    assert torch.equal(logits_of(plain, inputs), logits_of(model, inputs))


@pytest.mark.parametrize("name", ["ast", "convnext"])
def test_what_has_learned_is_saved_and_reloaded_exactly(name, tmp_path_factory, tmp_path):
    model, _, layers = make_adapted(name, tmp_path_factory)
    teach(model)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    save_adapters(model, tmp_path)
    learned = load_file(tmp_path / ADAPTER_FOLDER / ADAPTER_FILE)
    assert sum(t.numel() for t in learned.values()) < sum(t.numel() for t in state.values()) / 2
    teach(model)
    reload_adapters(model, tmp_path)
    again = model.state_dict()
    assert all(torch.equal(again[n], state[n]) for n in state)
    assert len(learned) == 2 * len(layers.adapted) + sum(n.startswith("classifier") for n in state)


def test_peft_reads_what_was_saved(tmp_path_factory, tmp_path):
    import peft

    model, inputs, _ = make_adapted("ast", tmp_path_factory)
    teach(model)
    save_adapters(model, tmp_path)
    start = ASTForAudioClassification.from_pretrained(
        saved("ast", tmp_path_factory), num_labels=3, ignore_mismatched_sizes=True
    )
    read = peft.PeftModel.from_pretrained(start, str(tmp_path / ADAPTER_FOLDER)).eval()
    torch.testing.assert_close(logits_of(read, inputs), logits_of(model, inputs), rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="holds an adapter of peft.*its own folder"):
        load(tmp_path / ADAPTER_FOLDER)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("absent", "has no adapter/.*--lora_rank"),
        ("cut off", "cut off"),
        ("another rank", "not those of this model"),
        ("one too few", "not those of this model"),
    ],
)
def test_other_or_damaged_adapters_are_refused(damage, words, tmp_path_factory, tmp_path):
    model, _, _ = make_adapted("ast", tmp_path_factory)
    other = make_adapted("ast", tmp_path_factory, rank=2)[0] if damage == "another rank" else model
    path = tmp_path / ADAPTER_FOLDER / ADAPTER_FILE
    if damage != "absent":
        save_adapters(other, tmp_path)
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-10])
    if damage == "one too few":
        save_file(dict(list(load_file(path).items())[1:]), path)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(UserError, match=words):
        reload_adapters(model, tmp_path)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_transformers_does_not_see_peft():
    """Else its Trainer imports it in every run, and every checkpoint is asked for an adapter, on the Hub as well."""
    code = "import hf_utils, transformers.utils as u; print(u.is_peft_available())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert importlib.metadata.version("peft") and done.stdout == "False\n", done.stderr
