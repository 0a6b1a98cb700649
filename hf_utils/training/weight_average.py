"""Averaged weights: the running mean of the weights of a training, evaluated, chosen and saved in their place.

`torch.optim.swa_utils.AveragedModel` keeps the mean. The training itself goes on with its own weights, and is what it
would be without the mean. A checkpoint has the mean for a model, and the training's own weights beside it.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback

from hf_utils.errors import UserError

RUNNING_FILE = "running_weights.safetensors"
_COUNT = "n_averaged"
_EMA_DECAY = 0.999
# Of all steps, those before the last quarter: Izmailov et al. average over the last quarter of a training, too.
_SWA_START = 0.75


class WeightAverage(TrainerCallback):
    """The mean of the weights after every step, as a callback of the Trainer.

    "ema" is an exponential moving average. Its decay after n steps is min(0.999, (1 + n) / (10 + n)), that of
    TensorFlow's `ExponentialMovingAverage`: the mean of about the last tenth of the steps so far, and of the last
    thousand at most, so that short trainings need no other decay.

    "swa" is the plain mean over the last quarter of the steps (stochastic weight averaging, Izmailov et al. 2018,
    arXiv 1803.05407, where it is taken once per epoch; here an epoch may have few steps).
    """

    def __init__(self, model: nn.Module, kind: str):
        """Take `kind`, "ema" or "swa", and the model as it is before the first step."""
        self._kind = kind
        self._averaged = AveragedModel(model, multi_avg_fn=self._move if kind == "ema" else None)
        self._running: dict[str, torch.Tensor] | None = None

    def _move(self, averaged: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], _: torch.Tensor) -> None:
        count = self._count()  # the argument may be on a GPU, and would have to be waited for
        get_ema_multi_avg_fn(min(_EMA_DECAY, (1 + count) / (10 + count)))(averaged, weights, count)

    def _count(self) -> int:
        return int(self._averaged.n_averaged)

    @property
    def has_begun(self) -> bool:
        """Whether there is a mean."""
        return self._count() > 0

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self._kind == "ema" or state.global_step > _SWA_START * state.max_steps:
            self._averaged.update_parameters(model)

    def copy_to(self, model: nn.Module) -> None:
        """Give a model the mean. Its batch norms have statistics of other weights then: see `renew_batch_norm`."""
        model.load_state_dict(self._averaged.module.state_dict())

    @contextlib.contextmanager
    def keep_running(self, model: nn.Module) -> Iterator[None]:
        """Give a model its own weights back at the end; they are what `save` writes until then."""
        self._running = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        try:
            yield
        finally:
            model.load_state_dict(self._running)
            self._running = None

    def save(self, folder: str | Path) -> None:
        """Write what `resume` needs into a checkpoint, beside the averaged model. To be called in `keep_running`."""
        tensors = {**self._running, _COUNT: self._averaged.n_averaged}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, Path(folder, RUNNING_FILE))

    def resume(self, model: nn.Module, folder: str | Path) -> None:
        """Go on from a checkpoint whose model, the mean, was loaded into `model`, which gets its own weights.

        Raises:
            UserError: the checkpoint has no such weights.
        """
        path = Path(folder, RUNNING_FILE)
        if not path.is_file():
            raise UserError(
                f"--resume_from_checkpoint {folder} has no {path.name}, so its training had no --average_weights, or "
                "saved only models: leave --average_weights out, or start a new run."
            )
        running = load_file(path)
        self._averaged.module.load_state_dict(model.state_dict())
        self._averaged.n_averaged.copy_(running.pop(_COUNT))
        model.load_state_dict(running)


def find_batch_norms(model: nn.Module, frozen: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the batch norms of a model that keep statistics, without those in `frozen` modules."""
    still = {id(module) for part in frozen for module in part.modules()}
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    return [module for module in norms if id(module) not in still]


@torch.no_grad()
def renew_batch_norm(model: nn.Module, norms: Sequence[nn.Module], batches: Iterable[Mapping[str, Any]]) -> None:
    """Compute the statistics of batch norms anew: means over batches of a model's inputs.

    As `torch.optim.swa_utils.update_bn`, which would also forget the statistics of frozen norms, and draw dropout.
    """
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for inputs in batches:
        model(**inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)
