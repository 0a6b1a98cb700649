"""benchmarks/gpu.py, which is made for a GPU, runs on a CPU at tiny sizes, and its rows mean what its page says."""

import json

import pytest
import torch

from benchmarks import common, gpu


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return the rows of all models, and the file that holds them."""
    file = tmp_path_factory.mktemp("gpu") / "rows.json"
    words = "--tiny --compiled no --batch_sizes 8 --workers 0 --musicgen_batch_sizes 1 --musicgen_steps 4".split()
    return gpu.main([*words, "--json", str(file)]), file


def test_every_model_has_a_row_of_training_and_of_evaluation(measured):
    rows, file = measured
    assert json.loads(file.read_text()) == rows
    assert [(row["model"], row["what"]) for row in rows] == [
        (model, what) for model in ("ast", "hubert", "convnext") for what in ("training", "evaluation")
    ]
    assert [row["windows"] for row in rows] == [common.TINY.train_tracks, 2 * common.TINY.validation_tracks] * 3


def test_rates_and_shares_follow_from_what_was_timed(measured):
    for row in measured[0]:
        assert row["ratio"] == pytest.approx(row["ours"] / row["bare"])
        assert row["peak"] == pytest.approx(row["bare"] * row["gflop_per_window"] * 1e9 / 989e12)
        if row["what"] == "training":
            seconds = row["epoch_seconds"]
            assert row["ours"] == pytest.approx(row["windows"] / seconds["training"][1])
            assert 0 < seconds["first batch"][1] <= seconds["waiting"][1] < seconds["training"][1]


def test_learning_takes_up_to_three_times_the_operations_of_predicting(measured):
    """Backward multiplies twice for each product, except for the gradient of the input, which nobody needs.

    Of the CNN: the CPU's attention is one that PyTorch does not count.
    """
    operations = {row["what"]: row["gflop_per_window"] for row in measured[0] if row["model"] == "convnext"}
    assert 2 < operations["training"] / operations["evaluation"] <= 3


def test_every_training_of_one_trainer_computes_in_the_same_precision(tmp_path):
    """accelerate wraps no model twice, so one that was unwrapped in between would go on in float32."""
    common.write_clips(tmp_path / "clips", common.TINY)
    trainer = gpu.make_trainer(gpu.Setting("convnext", 8, False), tmp_path, common.TINY, ["--precision", "bf16"])
    gpu.set_workers(trainer, 0)
    seen = []
    trainer.model.classifier[-1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    batch = next(iter(trainer.get_train_dataloader()))
    for _ in range(2):
        gpu.train_on_ready_batch(trainer, batch)
    assert len(seen) == 8 and set(seen) == {torch.bfloat16}
