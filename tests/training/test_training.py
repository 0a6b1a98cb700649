"""The Trainer's changes: exact reload of best checkpoint and on resume, losses by hand, frozen parts kept still."""

import numpy as np
import pytest
import tiny_models
import torch
from tiny_trainers import differing, make_trainer, tensors
from transformers import TrainerCallback

from hf_utils.data.clips import load_clips
from hf_utils.data.visits import VisitPlan
from hf_utils.data.waveforms import decode_clips
from hf_utils.data.windows import TrainingWindows
from hf_utils.training.trainer import CrossEntropy, balanced_class_weights

SAVERS = {"ast": tiny_models.save_ast, "hubert": tiny_models.save_hubert, "convnext": tiny_models.save_convnext}


@pytest.fixture(scope="module", params=SAVERS)
def checkpoint(request, tmp_path_factory):
    return SAVERS[request.param](tmp_path_factory.mktemp(request.param) / "model")


class RecordWeights(TrainerCallback):
    """Keeps the weights at every evaluation, and makes the first one the best."""

    def __init__(self):
        self.weights = []

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        self.weights.append(tensors(model))
        metrics["eval_accuracy"] = 1.0 / len(self.weights)


def test_the_best_checkpoint_is_loaded_whole(checkpoint, genre_folder, tmp_path):
    record = RecordWeights()
    trainer = make_trainer(checkpoint, genre_folder, tmp_path / "run", callbacks=[record])
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    best, last = record.weights
    assert len(differing(best, last)) > len(best) // 2, "training changed too little for this test"
    assert differing(tensors(trainer.model), best) == []


MID_EPOCH = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 3, "eval_steps": 3}


@pytest.mark.parametrize(
    "more",
    [
        {},
        MID_EPOCH,
        MID_EPOCH | {"head_learning_rate": 3e-2, "layer_decay": 0.7},
        MID_EPOCH | {"plan": VisitPlan(per_track=2, balanced=True, mixup_alpha=0.5), "num_train_epochs": 2},
        MID_EPOCH | {"average_weights": "ema"},
        {"average_weights": "swa", "num_train_epochs": 2},  # begins after the checkpoint
        MID_EPOCH | {"average_weights": "swa", "max_steps": 7},  # and before it
        MID_EPOCH | {"lora_rank": 2, "head_learning_rate": 3e-2, "layer_decay": 0.7, "average_weights": "ema"},
    ],
)
def test_a_resumed_run_ends_in_the_same_weights(checkpoint, genre_folder, tmp_path, more):
    """From the checkpoint that a kill in the second epoch leaves: of the end of an epoch, or of the middle of one."""
    options = {"num_train_epochs": 3, "load_best_model_at_end": False, "save_total_limit": 9} | more
    whole = make_trainer(checkpoint, genre_folder, tmp_path / "whole", **options)
    whole.train()
    resumed = make_trainer(checkpoint, genre_folder, tmp_path / "resumed", **options)
    step = 6 if "save_steps" in more else 4
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert resumed.state.global_step == whole.state.global_step > step
    assert differing(tensors(whole.model), tensors(resumed.model)) == []


def test_training_twice_gives_the_same_weights_and_another_seed_does_not(checkpoint, genre_folder, tmp_path):
    weights = []
    for run, seed in enumerate((5, 5, 6)):
        trainer = make_trainer(
            checkpoint,
            genre_folder,
            tmp_path / str(run),
            seed=seed,
            max_steps=3,
            save_strategy="no",
            eval_strategy="no",
            load_best_model_at_end=False,
        )
        trainer.train()
        weights.append(tensors(trainer.model))
    assert differing(weights[0], weights[1]) == []
    assert differing(weights[0], weights[2])


class RecordGradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("plan", [None, VisitPlan(mixup_alpha=0.5)])
def test_a_step_is_the_same_however_it_is_cut_up(checkpoint, plan, genre_folder, tmp_path):
    """Twelve windows in one batch, or accumulated from batches of 5, 5 and 2: the gradients are equal."""
    gradients = []
    for size, accumulation in ((12, 1), (5, 3)):
        trainer = make_trainer(
            checkpoint,
            genre_folder,
            tmp_path / str(size),
            plan=plan,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            precision="fp32",  # bf16, where the processor has it, rounds more coarsely than what is tested
            max_steps=1,
            max_grad_norm=0,
            save_strategy="no",
            eval_strategy="no",
            load_best_model_at_end=False,
        )
        record = RecordGradients()
        trainer.add_callback(record)
        # Dropout and time masks draw per batch: leave them out.
        trainer.model.train = lambda mode=True: None
        trainer.train()
        gradients.append(record.gradients)
    assert gradients[0].keys() == gradients[1].keys()
    scale = max(g.abs().max() for g in gradients[0].values())
    for name in gradients[0]:
        assert torch.allclose(gradients[0][name], gradients[1][name], atol=1e-5 * float(scale)), name


def test_a_frozen_backbone_does_not_move(checkpoint, genre_folder, tmp_path):
    trainer = make_trainer(
        checkpoint,
        genre_folder,
        tmp_path,
        freeze_mode="backbone",
        max_steps=2,
        save_strategy="no",
        eval_strategy="no",
        load_best_model_at_end=False,
    )
    before = tensors(trainer.model)
    trainer.train()
    moved = differing(before, tensors(trainer.model))
    assert moved and not any(name.startswith(trainer.model.base_model_prefix + ".") for name in moved)
    assert not trainer.model.base_model.training


def test_cross_entropy_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    labels = torch.tensor([0, 2])
    losses = -np.log([0.5, 0.1])
    assert CrossEntropy()({"logits": logits}, labels).item() == pytest.approx(losses.mean())
    assert CrossEntropy()({"logits": logits}, labels, torch.tensor(8)).item() == pytest.approx(losses.sum() / 8)
    weighted = CrossEntropy(torch.tensor([1.0, 1.0, 3.0]))({"logits": logits}, labels)
    assert weighted.item() == pytest.approx((losses[0] + 3 * losses[1]) / 2)
    smooth = CrossEntropy(label_smoothing=0.3)({"logits": logits}, labels).item()
    targets = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    assert smooth == pytest.approx(-(targets * logits.numpy()).sum() / 2)


def test_cross_entropy_of_mixed_windows_is_that_of_both_genres():
    """With class weights and label smoothing; the Trainer counts all six numbers of the labels as items."""
    logits, weights = torch.randn(2, 3), torch.tensor([1.0, 2.0, 0.5])
    first, second, share = torch.tensor([0, 2]), torch.tensor([1, 0]), 0.3
    one_hot = torch.eye(3)
    mixed = share * one_hot[first] + (1 - share) * one_hot[second]
    loss = CrossEntropy(weights, 0.2)
    pure = [loss({"logits": logits}, labels, torch.tensor(8)).item() for labels in (first, second)]
    expected = share * pure[0] + (1 - share) * pure[1]
    assert loss({"logits": logits}, mixed, torch.tensor(24)).item() == pytest.approx(expected)
    assert loss({"logits": logits}, mixed).item() == pytest.approx(4 * expected)


def test_balanced_weights_by_hand():
    """Counts 3, 0 and 1: 4 / (2 * 3), untouched, 4 / (2 * 1)."""
    weights = balanced_class_weights(np.array([0, 0, 0, 2]), 3)
    assert weights.tolist() == pytest.approx([2 / 3, 1.0, 2.0])


def test_every_track_is_scored_once(checkpoint, genre_folder, tmp_path):
    trainer = make_trainer(checkpoint, genre_folder, tmp_path, per_device_eval_batch_size=5)
    evaluated = trainer.evaluate_set(trainer.eval_dataset, "validation")
    assert evaluated.track_ids == trainer.eval_dataset.track_ids and len(set(evaluated.track_ids)) == 12
    assert evaluated.num_windows == len(trainer.eval_dataset) > 12


def test_evaluation_takes_the_batches_that_fit_and_finds_the_same(checkpoint, genre_folder, tmp_path, monkeypatch):
    """Room for 6 windows: with a quarter more, 16 and 8 are too many, and 4 are not."""
    options = {"per_device_eval_batch_size": 16, "precision": "fp32"}
    trainer = make_trainer(checkpoint, genre_folder, tmp_path / "roomy", **options)
    expected = trainer.predict(trainer.eval_dataset).predictions
    trainer = make_trainer(checkpoint, genre_folder, tmp_path / "full", **options)
    forward, sizes = trainer.model.forward, []

    def forward_with_room(*args, **inputs):
        sizes.append(len(next(iter(inputs.values()))))
        if sizes[-1] > 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(*args, **inputs)

    monkeypatch.setattr("hf_utils.models.batch_sizes._UNTRIED_DEVICES", ())
    monkeypatch.setattr(trainer.model, "forward", forward_with_room)
    found = trainer.predict(trainer.eval_dataset).predictions
    assert sizes[:3] == [20, 10, 5] and set(sizes[3:-1]) == {4} and trainer.args.per_device_eval_batch_size == 4
    np.testing.assert_allclose(found, expected, atol=1e-5)
    del sizes[:]
    trainer.evaluate()
    assert max(sizes) == 4, "it was tried again"


def test_windows_are_told_the_epoch_by_the_trainer_itself(checkpoint, genre_folder, tmp_path):
    """accelerate's loader keeps it from the dataset once its batch sampler is wrapped, as under two processes."""
    trainer = make_trainer(checkpoint, genre_folder, tmp_path)
    first = trainer.train_dataset[0]["seed"]
    trainer.state.epoch = 2.25
    trainer.callback_handler.train_dataloader = trainer.get_train_dataloader()
    trainer.callback_handler.on_epoch_begin(trainer.args, trainer.state, trainer.control)
    expected = TrainingWindows(decoded_clips(genre_folder, trainer), 100, seed=5)
    expected.set_epoch(2)
    assert first != trainer.train_dataset[0]["seed"] == expected[0]["seed"]


def decoded_clips(folder, trainer):
    return decode_clips(load_clips(str(folder)), trainer.processing_class.sampling_rate)
