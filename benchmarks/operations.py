"""Floating-point operations: those of a window of a model, and those that the device makes a second at best."""

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from benchmarks import generate
from benchmarks.common import bare_step, set_mode
from hf_utils.training.trainer import GenreTrainer


def count_convolution_backward(output, inputs, weight, *rest, **kwargs):
    """Return the operations of the gradients of a convolution, from shapes: as many for each as the convolution took.

    PyTorch's own counts those of a depthwise convolution's weights once for every channel.
    """
    # `wanted` are the gradients of the input, the weight and the bias.
    _bias, _stride, _padding, _dilation, transposed, *_, wanted = rest
    return sum(wanted[:2]) * conv_flop_count(inputs, weight, output, transposed=transposed)


def count_operations(trainer: GenreTrainer, batch: dict) -> float:
    """Return the floating-point operations of one window of `batch`, which has labels if the model is to learn."""
    set_mode(trainer.model, "labels" in batch)
    ours = {torch.ops.aten.convolution_backward: count_convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=ours) as counter, torch.set_grad_enabled("labels" in batch):
        bare_step(trainer, trainer.model, batch)
    return counter.get_total_flops() / len(next(iter(batch.values())))


def matrix_tflops(device: torch.device) -> float:
    """Return what the device does in a large product of bfloat16 matrices, in 1e12 operations a second."""
    size, repeats = 8192, 20
    one, other = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    one @ other
    return 2 * size**3 * repeats / generate.seconds_of(lambda: [one @ other for _ in range(repeats)], device) / 1e12
