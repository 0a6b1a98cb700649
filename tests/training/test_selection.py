"""Which checkpoint is kept and what ends a training: by scripted scores, in one go and after kills."""

import math
import shutil

import numpy as np
import pytest
import tiny_models
from tiny_trainers import KillAt, Killed, differing, make_trainer, tensors
from transformers import TrainerCallback

from hf_utils.errors import UserError
from hf_utils.training.selection import describe_training
from hf_utils.training.trainer import GenreTrainer

STEPS_PER_EPOCH = 4  # of tiny_trainers: 12 tracks, 3 at a time


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_models.save_ast(tmp_path_factory.mktemp("ast") / "model")


@pytest.fixture
def script(monkeypatch):
    """Return a function that gives the evaluation after each epoch the scores of its turn."""

    def set_scores(name: str, scores: list[tuple[float, float]]) -> None:
        def score(self, prediction):
            value, log_loss = scores[int(self.state.global_step / STEPS_PER_EPOCH) - 1]
            return dict.fromkeys(("accuracy", "f1", "roc_auc", "ece"), 0.5) | {"log_loss": log_loss} | {name: value}

        monkeypatch.setattr(GenreTrainer, "_score", score)

    return set_scores


@pytest.mark.parametrize(
    ("name", "scores", "kept"),
    [
        ("accuracy", [(0.3, 2.0), (0.3, 1.5), (0.3, 1.8)], 2),
        ("accuracy", [(0.3, 1.0), (0.3, 1.0), (0.2, 0.1)], 1),
        ("f1", [(0.5, 2.0), (0.6, 9.0), (0.6, 9.5)], 2),
        ("ece", [(0.2, 1.0), (0.1, 3.0), (0.1, 2.0)], 3),
        ("log_loss", [(1.2, 1.2), (1.1, 1.1), (1.3, 1.3)], 2),
        ("roc_auc", [(math.nan, 1.0), (0.4, 2.0), (math.nan, 0.5)], 2),
    ],
)
def test_equal_scores_are_told_apart_by_log_loss(checkpoint, genre_folder, tmp_path, script, name, scores, kept):
    script(name, scores)
    weights = []

    class RecordWeights(TrainerCallback):
        def on_epoch_end(self, args, state, control, model=None, **kwargs):
            weights.append(tensors(model))

    trainer = make_trainer(
        *(checkpoint, genre_folder, tmp_path / "run"),
        callbacks=[RecordWeights()],
        num_train_epochs=3,
        metric_for_best_model=name,
    )
    trainer.train()
    assert differing(tensors(trainer.model), weights[kept - 1]) == []
    end = describe_training(trainer.args, trainer.state)
    assert (end["ended_by"], end["kept"]["step"], end["kept"]["epoch"]) == ("schedule", 4 * kept, kept)
    assert (end["kept"]["score"], end["kept"]["log_loss"]) == scores[kept - 1]
    assert f"Kept: step {4 * kept} (epoch {kept}), {name}" in end["summary"]


def test_where_nothing_can_choose_the_last_step_is_kept_and_said(checkpoint, genre_folder, tmp_path, script):
    script("roc_auc", [(math.nan, 1.0), (math.nan, 2.0)])
    trainer = make_trainer(checkpoint, genre_folder, tmp_path / "run", metric_for_best_model="roc_auc")
    trainer.train()
    end = describe_training(trainer.args, trainer.state)
    assert end["kept"] == {"step": 8, "epoch": 2.0, "chosen_by": None, "score": None, "log_loss": None}
    assert "no evaluation gave roc_auc" in end["summary"]


class CountSteps(TrainerCallback):
    def __init__(self):
        self.steps = 0

    def on_step_begin(self, args, state, control, **kwargs):
        self.steps += 1


WORSE = [(0.5, 1.0), (0.4, 1.0), (0.3, 1.0), (0.2, 1.0), (0.1, 1.0), (0.1, 1.0)]


@pytest.mark.parametrize("killed_at", [5, 9, 11])
def test_early_stopping_counts_on_after_a_kill(checkpoint, genre_folder, tmp_path, script, killed_at):
    script("accuracy", WORSE)
    options = {"num_train_epochs": 6, "early_stopping_patience": 2}
    whole = make_trainer(checkpoint, genre_folder, tmp_path / "whole", **options)
    whole.train()
    assert whole.state.global_step == 12
    killed = make_trainer(checkpoint, genre_folder, tmp_path / "run", callbacks=[KillAt(killed_at)], **options)
    with pytest.raises(Killed):
        killed.train()
    resumed = make_trainer(checkpoint, genre_folder, tmp_path / "run", **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 12 and differing(tensors(whole.model), tensors(resumed.model)) == []
    end = describe_training(resumed.args, resumed.state)
    assert end == describe_training(whole.args, whole.state)
    assert (end["ended_by"], end["steps"], end["planned_steps"], end["kept"]["epoch"]) == ("early_stopping", 12, 24, 1)
    assert "stopped early" in end["summary"] and "2 evaluations" in end["summary"]


@pytest.mark.parametrize(
    "options",
    [
        {"num_train_epochs": 6, "early_stopping_patience": 2},
        {"num_train_epochs": 2},
        {"max_steps": 6, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3},
    ],
    ids=["early stopping", "epochs", "steps within an epoch"],
)
def test_a_training_that_had_ended_trains_no_further(checkpoint, genre_folder, tmp_path, script, options):
    script("accuracy", WORSE)
    whole = make_trainer(checkpoint, genre_folder, tmp_path / "run", **options)
    whole.train()
    count = CountSteps()
    resumed = make_trainer(checkpoint, genre_folder, tmp_path / "run", callbacks=[count], **options)
    resumed.train(resume_from_checkpoint=True)
    assert count.steps == 0 and resumed.state.global_step == whole.state.global_step
    assert differing(tensors(whole.model), tensors(resumed.model)) == []


def test_the_plateau_is_that_of_the_score_and_is_remembered_after_a_kill(
    checkpoint, genre_folder, tmp_path, script, caplog
):
    # Rises three times, then never: the rate, 0.01, is halved after the second evaluation that is no better.
    script("accuracy", [(0.1, 1.0), (0.2, 1.0), (0.3, 1.0), (0.3, 1.0), (0.3, 1.0), (0.3, 1.0)])
    options = {"num_train_epochs": 6, "lr_scheduler_type": "reduce_lr_on_plateau"}
    options["lr_scheduler_kwargs"] = {"factor": 0.5, "patience": 1}
    whole = make_trainer(checkpoint, genre_folder, tmp_path / "whole", **options)
    with caplog.at_level("INFO", logger="hf_utils"):
        whole.train()
    assert rates_after_epochs(whole) == [0.01] * 5 + [0.005]
    (line,) = [message for message in caplog.messages if "learning rate" in message]
    assert "0.01" in line and "0.005" in line
    end = describe_training(whole.args, whole.state)
    assert end["learning_rate_drops"] == [{"epoch": 5.0, "learning_rate": 0.005}]
    assert "fell to 0.005 after epoch 5" in end["summary"]
    # Between the two evaluations that lower the rate.
    killed = make_trainer(checkpoint, genre_folder, tmp_path / "run", callbacks=[KillAt(18)], **options)
    with pytest.raises(Killed):
        killed.train()
    resumed = make_trainer(checkpoint, genre_folder, tmp_path / "run", **options)
    resumed.train(resume_from_checkpoint=True)
    assert rates_after_epochs(resumed) == rates_after_epochs(whole)
    assert differing(tensors(whole.model), tensors(resumed.model)) == []


def rates_after_epochs(trainer) -> list[float]:
    logs = [entry for entry in trainer.state.log_history if "learning_rate" in entry]
    return [entry["learning_rate"] for entry in logs if entry["epoch"].is_integer()]


def test_the_best_checkpoint_of_a_moved_run_is_found_or_missed(checkpoint, genre_folder, tmp_path, script):
    script("accuracy", WORSE)
    options = {"num_train_epochs": 3}
    whole = make_trainer(checkpoint, genre_folder, tmp_path / "run", **options)
    whole.train()
    shutil.move(tmp_path / "run", tmp_path / "moved")
    resumed = make_trainer(checkpoint, genre_folder, tmp_path / "moved", **options)
    resumed.train(resume_from_checkpoint=True)
    assert differing(tensors(whole.model), tensors(resumed.model)) == []
    shutil.rmtree(tmp_path / "moved" / "checkpoint-4")
    lost = make_trainer(checkpoint, genre_folder, tmp_path / "moved", **options)
    with pytest.raises(UserError, match="checkpoint-4, is gone"):
        lost.train(resume_from_checkpoint=True)


def test_the_best_checkpoint_of_a_copied_run_is_its_own(checkpoint, genre_folder, tmp_path, script):
    """The folder that it was copied from has the checkpoints of another training by now."""
    script("accuracy", WORSE)
    whole = make_trainer(checkpoint, genre_folder, tmp_path / "run")
    whole.train()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    other = make_trainer(checkpoint, genre_folder, tmp_path / "run", seed=6)
    other.train()
    assert differing(tensors(whole.model), tensors(other.model))
    resumed = make_trainer(checkpoint, genre_folder, tmp_path / "copy")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.best_model_checkpoint == str(tmp_path / "copy" / "checkpoint-4")
    assert differing(tensors(whole.model), tensors(resumed.model)) == []


@pytest.mark.parametrize("lost", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_finished_training_is_lengthened_only_with_its_state(checkpoint, genre_folder, tmp_path, lost):
    options = {"lr_scheduler_type": "constant", "load_best_model_at_end": False}
    make_trainer(checkpoint, genre_folder, tmp_path, num_train_epochs=1, **options).train()
    (tmp_path / "checkpoint-4" / lost).unlink()
    make_trainer(checkpoint, genre_folder, tmp_path, num_train_epochs=1, **options).train(resume_from_checkpoint=True)
    longer = make_trainer(checkpoint, genre_folder, tmp_path, num_train_epochs=2, **options)
    with pytest.raises(UserError, match="checkpoint-4 lacks the state"):
        longer.train(resume_from_checkpoint=True)


def test_an_evaluation_of_the_same_step_counts_once(checkpoint, genre_folder, tmp_path, monkeypatch):
    scores = {0: 0.1, 4: 0.5, 8: 0.4, 12: 0.3, 16: 0.2, 20: 0.1}

    def score(self, prediction):
        rest = dict.fromkeys(("f1", "roc_auc", "ece", "log_loss"), 0.5)
        return rest | {"accuracy": scores[self.state.global_step]}

    monkeypatch.setattr(GenreTrainer, "_score", score)
    options = {"num_train_epochs": 5, "early_stopping_patience": 3, "eval_on_start": True}
    killed = make_trainer(checkpoint, genre_folder, tmp_path, callbacks=[KillAt(9)], **options)
    with pytest.raises(Killed):
        killed.train()
    resumed = make_trainer(checkpoint, genre_folder, tmp_path, **options)
    resumed.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in resumed.state.log_history if "eval_loss" in entry] == [0, 4, 8, 8, 12, 16]
    assert resumed.state.global_step == 16


@pytest.mark.parametrize(
    ("options", "starts", "scores"),
    [
        ({}, ["epoch   1.0/2", "epoch   2.0/2"], True),
        (
            {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2},
            ["step     2/6", "step     4/6", "step     6/6"],
            True,
        ),
        ({"eval_strategy": "no"}, ["epoch   1.0/2", "epoch   2.0/2"], False),
        ({"eval_strategy": "no", "logging_steps": 4}, ["epoch   1.0/2", "epoch   2.0/2"], False),
        ({"eval_strategy": "no", "max_steps": 6}, ["step     4/6", "step     6/6"], False),
    ],
)
def test_every_line_has_a_loss_and_every_epoch_a_line(
    checkpoint, genre_folder, tmp_path, capsys, options, starts, scores
):
    options = {"save_strategy": "no", "load_best_model_at_end": False} | options
    make_trainer(checkpoint, genre_folder, tmp_path / "run", **options).train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("epoch", "step"))]
    assert [line.partition("  train loss ")[0] for line in lines] == starts
    assert all(("validation: loss" in line) == scores and "nan" not in line for line in lines)


def test_the_line_before_the_first_step_has_no_loss(checkpoint, genre_folder, tmp_path, capsys):
    trainer = make_trainer(checkpoint, genre_folder, tmp_path / "run", eval_on_start=True, num_train_epochs=1)
    trainer.train()
    first, last = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert "train loss" not in first and "nan" not in first and "validation: loss" in first
    assert "train loss" in last


def test_the_validation_loss_is_the_mean_over_windows_whatever_the_batches(checkpoint, genre_folder, tmp_path):
    found = []
    for size in (1, 5, 100):
        options = {"per_device_eval_batch_size": size, "precision": "fp32"}
        trainer = make_trainer(checkpoint, genre_folder, tmp_path / str(size), **options)
        found.append(trainer.evaluate()["eval_loss"])
        logits = trainer.predict(trainer.eval_dataset).predictions
    windows = trainer.eval_dataset
    labels = windows.labels[windows.track_index]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    assert len(windows) % 5 and found == pytest.approx(
        [-log_probabilities[range(len(labels)), labels].mean()] * 3, abs=1e-5
    )
