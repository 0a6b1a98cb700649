"""Averaged weights: means by hand, evaluated, saved and kept; the training goes on as without; batch norms anew."""

import copy
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import saved
from tiny_trainers import differing, make_trainer, tensors
from torch.optim.swa_utils import update_bn
from transformers import TrainerCallback

from hf_utils.errors import UserError
from hf_utils.models.weights import reload_weights
from hf_utils.seeding import derive_seed
from hf_utils.training.selection import describe_training
from hf_utils.training.weight_average import RUNNING_FILE, WeightAverage

STEPS = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4, "save_total_limit": 9}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Decays 2 / 11, 3 / 12 and 4 / 13 of steps 2, 3 and 4.
        ("ema", [1, 20 / 11, 38 / 11, 944 / 143]),
        # The last quarter of four steps is the last; of eight, 7 and 8.
        ("swa", [None, None, None, 8.0]),
        ("swa of eight", [None] * 6 + [64.0, (64 + 128) / 2]),
    ],
)
def test_means_by_hand(kind, expected):
    """The weight is 2^(step - 1)."""
    model = torch.nn.Linear(1, 1, bias=False)
    average, reached = WeightAverage(model, kind[:3]), torch.nn.Linear(1, 1, bias=False)
    for step, mean in enumerate(expected, start=1):
        with torch.no_grad():
            model.weight.fill_(2.0 ** (step - 1))
        average.on_step_end(None, types.SimpleNamespace(global_step=step, max_steps=len(expected)), None, model=model)
        if average.has_begun:
            average.copy_to(reached)
        assert average.has_begun == (mean is not None)
        if mean is not None:
            assert reached.weight.item() == pytest.approx(mean)


class Watch(TrainerCallback):
    """Keeps the weights after every step and at every evaluation, and makes the first evaluation the best."""

    def __init__(self):
        self.steps, self.evaluated, self.scores = [], [], []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append(tensors(model))

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        self.evaluated.append(tensors(model))
        metrics["eval_accuracy"] = 1.0 / len(self.evaluated)


def is_statistic(name):
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def means_of(steps, kind, num_steps):
    """The slow reference, in double precision; the mean after each step."""
    mean, means = None, []
    begin = 0 if kind == "ema" else 3 * num_steps // 4
    for count, weights in enumerate(steps[begin:]):
        weights = {name: tensor.double() for name, tensor in weights.items()}
        kept = min(0.999, (1 + count) / (10 + count)) if kind == "ema" else count / (count + 1)
        kept = kept if count else 0.0
        mean = {name: kept * (mean or weights)[name] + (1 - kept) * tensor for name, tensor in weights.items()}
        means.append(mean)
    return [None] * begin + means


@pytest.mark.parametrize("name", ["ast", "resnet", "musicnn"])
def test_the_mean_is_evaluated_and_saved_and_the_training_is_as_without(
    name, genre_folder, tmp_path_factory, tmp_path
):
    """Steps 4, 8 and 12 are evaluated; under swa, the mean of steps 10 to 12 is the only choice."""
    checkpoint, watches, trainers = saved(name, tmp_path_factory), {}, {}
    for run in ("none", "ema", "swa"):
        watches[run] = Watch()
        options = {"num_train_epochs": 3, "average_weights": run, "precision": "fp32", **STEPS}
        trainers[run] = make_trainer(checkpoint, genre_folder, tmp_path / run, callbacks=[watches[run]], **options)
        trainers[run].train()
    for kind in ("ema", "swa"):
        check_average(kind, watches["none"], watches[kind], trainers[kind], tmp_path / kind)


def check_average(kind, plain, averaged, trainer, output_dir):
    assert len(plain.steps) == len(averaged.steps) == 12
    for one, other in zip(plain.steps, averaged.steps, strict=True):
        assert differing(one, other) == []
    means = means_of(plain.steps, kind, 12)
    for step, evaluated in zip((4, 8, 12), averaged.evaluated, strict=True):
        expected = means[step - 1] or plain.steps[step - 1]
        for key, tensor in evaluated.items():
            if not is_statistic(key) or means[step - 1] is None:
                torch.testing.assert_close(tensor.double(), expected[key].double(), rtol=1e-4, atol=1e-6, msg=key)
        folder = output_dir / f"checkpoint-{step}"
        again = copy.deepcopy(trainer.model)
        reload_weights(again, folder)
        assert differing(tensors(again), evaluated) == []
        running = load_file(folder / RUNNING_FILE)
        assert running.pop("n_averaged") == {"ema": step, "swa": max(0, step - 9)}[kind]
        assert differing(running, plain.steps[step - 1]) == []
    kept = {"ema": 4, "swa": 12}[kind]
    assert trainer.state.best_global_step == kept
    assert differing(tensors(trainer.model), averaged.evaluated[kept // 4 - 1]) == []


@pytest.mark.parametrize("name", ["resnet", "musicnn", "timm_resnet"])
def test_batch_norm_statistics_are_those_of_the_averaged_weights(name, genre_folder, tmp_path_factory, tmp_path):
    """As torch's own `update_bn` computes them from the windows of the last epoch, in the order of the trainer."""
    trainer = make_trainer(
        saved(name, tmp_path_factory),
        genre_folder,
        tmp_path,
        **{"average_weights": "ema", "precision": "fp32", "num_train_epochs": 1, "load_best_model_at_end": False},
    )
    trainer.train()
    windows, found = trainer.train_dataset, tensors(trainer.model)
    order = np.random.default_rng(derive_seed(trainer.args.seed, "batch norm")).permutation(12)
    batches = [trainer.data_collator(windows.__getitems__(part)) for part in order.reshape(4, 3).tolist()]
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    update_bn([batch["input_values"] for batch in batches], trainer.model)
    expected = trainer.model.state_dict()
    statistics = [key for key in found if is_statistic(key)]
    assert statistics
    for key in statistics:
        torch.testing.assert_close(found[key], expected[key], msg=key)


def test_batch_norm_statistics_are_of_batches_of_several_genres(genre_folder, tmp_path_factory, tmp_path):
    """The table is sorted by genre: in its order, a batch would have the deviation within one genre."""
    options = {"average_weights": "ema", "num_train_epochs": 1, "per_device_train_batch_size": 4}
    trainer = make_trainer(
        saved("resnet", tmp_path_factory), genre_folder, tmp_path, load_best_model_at_end=False, **options
    )
    collate, batches = trainer.data_collator, []
    trainer.data_collator = lambda windows: batches.append([w["label"] for w in windows]) or collate(windows)
    trainer.train()
    labels = [window["label"] for window in trainer.train_dataset]
    assert labels == sorted(labels) and labels.count(0) == 4
    renewing = batches[-3:]
    assert sorted(sum(renewing, [])) == labels and min(len(set(batch)) for batch in renewing) > 1


def test_frozen_batch_norms_keep_their_statistics(genre_folder, tmp_path_factory, tmp_path):
    options = {"average_weights": "ema", "num_train_epochs": 1, "freeze_mode": "all_but_last"}
    trainer = make_trainer(saved("resnet", tmp_path_factory), genre_folder, tmp_path, **options)
    before = tensors(trainer.model)
    frozen = {n.rpartition(".")[0] for n, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.train()
    moved = {key for key in differing(before, tensors(trainer.model)) if is_statistic(key)}
    assert moved and not any(key.rpartition(".")[0] in frozen for key in moved)


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_a_resumed_run_of_batch_norms_ends_in_the_same_weights(kind, genre_folder, tmp_path_factory, tmp_path):
    checkpoint = saved("resnet", tmp_path_factory)
    options = {"num_train_epochs": 3, "average_weights": kind, **STEPS, "save_steps": 3, "eval_steps": 3}
    whole = make_trainer(checkpoint, genre_folder, tmp_path / "whole", **options)
    whole.train()
    resumed = make_trainer(checkpoint, genre_folder, tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-9"))
    assert resumed.state.global_step == 12
    assert differing(tensors(whole.model), tensors(resumed.model)) == []


def test_a_training_that_had_ended_has_the_same_mean_again(genre_folder, tmp_path_factory, tmp_path):
    """Also the statistics of its batch norms, which are of the windows of its last epoch."""
    checkpoint = saved("resnet", tmp_path_factory)
    options = {"num_train_epochs": 3, "average_weights": "ema", "load_best_model_at_end": False}
    whole = make_trainer(checkpoint, genre_folder, tmp_path, **options)
    whole.train()
    again = make_trainer(checkpoint, genre_folder, tmp_path, **options)
    again.train(resume_from_checkpoint=True)
    assert differing(tensors(whole.model), tensors(again.model)) == []


def test_a_training_that_had_ended_needs_no_running_weights(genre_folder, tmp_path_factory, tmp_path):
    """Nor were they saved: the model of the last checkpoint is the mean."""
    checkpoint = saved("resnet", tmp_path_factory)
    options = {"num_train_epochs": 1, "average_weights": "ema", "load_best_model_at_end": False}
    whole = make_trainer(checkpoint, genre_folder, tmp_path, save_only_model=True, **options)
    whole.train()
    assert not (tmp_path / "checkpoint-4" / RUNNING_FILE).exists()
    again = make_trainer(checkpoint, genre_folder, tmp_path, save_only_model=True, **options)
    again.train(resume_from_checkpoint=True)
    assert differing(tensors(whole.model), tensors(again.model)) == []


def test_the_end_of_a_training_tells_of_the_mean(genre_folder, tmp_path_factory, tmp_path):
    options = {"num_train_epochs": 1, "average_weights": "swa"}
    trainer = make_trainer(saved("ast", tmp_path_factory), genre_folder, tmp_path, **options)
    trainer.train()
    summary = describe_training(trainer.args, trainer.state)["summary"]
    assert "running mean: --average_weights swa" in summary


def test_a_checkpoint_without_the_running_weights_is_refused(genre_folder, tmp_path_factory, tmp_path):
    checkpoint = saved("ast", tmp_path_factory)
    make_trainer(checkpoint, genre_folder, tmp_path, num_train_epochs=1).train()
    resumed = make_trainer(checkpoint, genre_folder, tmp_path, average_weights="ema")
    with pytest.raises(UserError, match=f"{RUNNING_FILE}.*average_weights"):
        resumed.train(resume_from_checkpoint=True)
