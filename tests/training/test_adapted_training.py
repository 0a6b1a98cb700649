"""Training with adapters: the best checkpoint comes back exactly, merged and unmerged, and every step is the same."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import load, saved
from tiny_trainers import differing, make_trainer, tensors
from transformers import TrainerCallback

from hf_utils.files import ADAPTER_FOLDER
from hf_utils.models.adapters import merge_adapters, merged_state


class Watch(TrainerCallback):
    """Keeps weights and merged weights at every evaluation and the first gradients; the first evaluation is best."""

    def __init__(self):
        self.weights, self.merged, self.gradients = [], [], None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.gradients is None:
            learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
            self.gradients = {name: p.grad.clone() for name, p in learning.items()}

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        self.weights.append(tensors(model))
        self.merged.append({name: tensor.clone() for name, tensor in merged_state(model).items()})
        metrics["eval_accuracy"] = 1.0 / len(self.weights)


@pytest.mark.parametrize("average", ["none", "ema"])
@pytest.mark.parametrize("name", ["ast", "convnext"])
def test_the_best_checkpoint_comes_back_exactly(name, average, genre_folder, tmp_path_factory, tmp_path):
    watch, checkpoint = Watch(), saved(name, tmp_path_factory)
    trainer = make_trainer(
        checkpoint, genre_folder, tmp_path / "run", callbacks=[watch], lora_rank=2, average_weights=average
    )
    learning, before = {n for n, p in trainer.model.named_parameters() if p.requires_grad}, tensors(trainer.model)
    trainer.train()
    best, last = watch.weights
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    assert set(differing(best, last)) == learning == set(differing(before, last)) and len(learning) > 20
    assert differing(tensors(trainer.model), best) == []
    # What others load: of the best checkpoint, and of the end, where the model itself becomes it.
    at_best, _ = load(tmp_path / "run" / "checkpoint-4", None, window_seconds=0.5)
    assert differing(tensors(at_best), watch.merged[0]) == []
    trainer.save_model()
    merge_adapters(trainer.model)
    assert differing(tensors(trainer.model), watch.merged[0]) == []
    assert differing(tensors(load(tmp_path / "run", None, window_seconds=0.5)[0]), watch.merged[0]) == []
    learned = load_file(tmp_path / "run" / ADAPTER_FOLDER / "adapter_model.safetensors")
    for key, tensor in learned.items():
        key = key.removeprefix("base_model.model.").replace("_A.weight", "_A.default.weight")
        assert torch.equal(tensor, best[key.replace("_B.weight", "_B.default.weight")])


def test_a_step_is_the_same_cut_up_and_with_checkpointed_activations(genre_folder, tmp_path_factory, tmp_path):
    """And every adapter has a gradient. AST has no dropout."""
    gradients = {}
    for run, options in {
        "whole": {"per_device_train_batch_size": 12},
        "cut": {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 3},
        "checkpointed": {"per_device_train_batch_size": 12, "activation_checkpointing": True},
    }.items():
        watch = Watch()
        options |= {"precision": "fp32", "max_steps": 1, "max_grad_norm": 0, "eval_strategy": "no"}
        options |= {"save_strategy": "no", "load_best_model_at_end": False, "lora_rank": 2}
        checkpoint = saved("ast", tmp_path_factory)
        make_trainer(checkpoint, genre_folder, tmp_path / run, callbacks=[watch], **options).train()
        gradients[run] = watch.gradients
    assert sum("lora_B" in name for name in gradients["whole"]) == 18
    assert all(gradient.any() for name, gradient in gradients["whole"].items() if "lora_A" not in name)
    scale = max(float(gradient.abs().max()) for gradient in gradients["whole"].values())
    for name, gradient in gradients["whole"].items():
        for run in ("cut", "checkpointed"):
            torch.testing.assert_close(gradients[run][name], gradient, rtol=0, atol=1e-5 * scale, msg=f"{run} {name}")
