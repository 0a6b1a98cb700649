"""Learning rates of head and blocks: by hand, every parameter once, in every family; refusals."""

import pytest
import torch
from tiny_models import load, saved
from tiny_trainers import make_trainer
from torch import nn

from hf_utils.errors import UserError
from hf_utils.models.freezing import find_backbone, find_layers, freeze
from hf_utils.training.optimizer import assign_learning_rates, make_parameter_groups

FAMILIES = ("ast", "hubert", "wav2vec2", "wavlm", "whisper", "convnext", "resnet", "timm_resnet", "musicnn")


def load_model(name, tmp_path_factory):
    return load(saved(name, tmp_path_factory), window_seconds=None if name == "whisper" else 1.0)[0]


def rates(levels):
    return {name: level.learning_rate for level in levels for name in level.parameters}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("mode", ["none", "all_but_last"])
def test_every_parameter_that_learns_has_the_rate_of_its_depth(name, mode, tmp_path_factory):
    model = load_model(name, tmp_path_factory)
    freeze(model, mode)
    levels = assign_learning_rates(model, 1.0, 8.0, 0.5)
    names = [n for level in levels for n in level.parameters]
    assert sorted(names) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    assert levels[-1].name == "head"  # the Trainer logs the rate of the first
    found, inside = rates(levels), {id(p): n for n, p in find_backbone(model).named_parameters()}
    by_backbone = {inside[id(p)]: found[n] for n, p in model.named_parameters() if n in found and id(p) in inside}
    assert all(found[n] == 8.0 for n, p in model.named_parameters() if n in found and id(p) not in inside)
    layers = find_layers(find_backbone(model))
    for number, block in enumerate(reversed(layers.blocks), start=1):
        assert {by_backbone[n] for n in block if n in by_backbone} <= {0.5**number}
    below = {by_backbone[n] for n in layers.front_end if n in by_backbone}
    assert below == ({0.5 ** (len(layers.blocks) + 1)} if mode == "none" else set())


def test_rates_of_ast_by_hand(tmp_path_factory):
    """Three layers, a norm above them, embeddings below them."""
    model = load_model("ast", tmp_path_factory)
    found = rates(assign_learning_rates(model, 0.1, None, 0.5))
    prefix = "audio_spectrogram_transformer."
    assert found["classifier.dense.weight"] == found[f"{prefix}layernorm.weight"] == 0.1
    expected = {0: 0.1 / 8, 1: 0.1 / 4, 2: 0.1 / 2}
    blocks = find_layers(find_backbone(model)).blocks
    assert {n: found[prefix + block[0]] for n, block in enumerate(blocks)} == pytest.approx(expected)
    assert found[f"{prefix}embeddings.cls_token"] == pytest.approx(0.1 / 16)
    assert set(rates(assign_learning_rates(model, 0.1, None, 1.0)).values()) == {0.1}


def test_a_head_without_a_backbone_learns_at_its_rate():
    assert rates(assign_learning_rates(nn.Linear(2, 2), 0.1, 0.3, 1.0)) == {"weight": 0.3, "bias": 0.3}


def test_weight_decay_is_where_the_trainer_has_it(tmp_path_factory):
    model = load_model("convnext", tmp_path_factory)
    levels = assign_learning_rates(model, 0.1, 0.2, 0.5)
    groups = make_parameter_groups(model, levels, ["classifier.1.weight"], 0.3)
    names = {id(p): n for n, p in model.named_parameters()}
    assert sorted(names[id(p)] for group in groups for p in group["params"]) == sorted(names.values())
    decayed = [names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]]
    assert decayed == ["classifier.1.weight"] and all(group["params"] for group in groups)


@pytest.mark.parametrize("name", ["ast", "convnext"])
def test_the_trainer_uses_and_logs_them(name, genre_folder, tmp_path_factory, tmp_path, caplog):
    """Plain SGD without momentum: the first step moves each parameter by its rate times its gradient."""
    caplog.set_level("INFO", "hf_utils")
    checkpoint = saved(name, tmp_path_factory)
    moved = {}
    for run, options in {"plain": {}, "apart": {"head_learning_rate": 0.1, "layer_decay": 0.5}}.items():
        trainer = make_trainer(
            checkpoint,
            genre_folder,
            tmp_path / run,
            **{"max_steps": 1, "optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0, "warmup_steps": 0},
            **{"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "precision": "fp32"},
            **options,
        )
        before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
        trainer.train()
        moved[run] = {n: p.detach() - before[n] for n, p in trainer.model.named_parameters()}
    expected = rates(assign_learning_rates(trainer.model, 1e-2, 0.1, 0.5))
    for parameter, step in moved["plain"].items():
        scaled = step * expected[parameter] / 1e-2
        torch.testing.assert_close(moved["apart"][parameter], scaled, rtol=1e-3, atol=1e-6, msg=parameter)
    assert max(step.abs().max() for step in moved["plain"].values()) > 1e-4
    assert "head: 0.1, 2 tensors" in caplog.text or "head: 0.1, 4 tensors" in caplog.text
    assert "below the blocks: " in caplog.text


def test_an_optimiser_with_its_own_groups_is_refused(genre_folder, tmp_path_factory, tmp_path):
    checkpoint = saved("convnext", tmp_path_factory)
    trainer = make_trainer(checkpoint, genre_folder, tmp_path, layer_decay=0.5)
    trainer.get_optimizer_cls_and_kwargs = lambda *args: (torch.optim.SGD, {"optimizer_dict": {}})
    with pytest.raises(UserError, match="optim is adamw_torch.*layer_decay"):
        trainer.create_optimizer()
