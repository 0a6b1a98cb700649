"""How many windows at once a device has memory for: tried, since what a model needs is in no file of it."""

import logging
from collections.abc import Callable

import torch
from accelerate.utils import find_executable_batch_size

from hf_utils.errors import UserError

logger = logging.getLogger(__name__)

# Where its memory is short, the system becomes slow, and then ends the process, instead of refusing.
_UNTRIED_DEVICES = ("cpu",)


def fit_batch_size(run: Callable[[int], object], most: int, device: torch.device) -> int:
    """Return the largest of `most`, `most` / 2, `most` / 4 ... windows for which the device has memory.

    A quarter more is tried than is returned: later batches find less room, since memory is cut into pieces.

    Args:
        run: puts so many windows through the model, as they will be later.

    Raises:
        UserError: one window is too many.
    """
    if device.type in _UNTRIED_DEVICES:
        return most
    size = most

    def halve() -> int:
        nonlocal size
        size //= 2
        return size

    @find_executable_batch_size(starting_batch_size=most, reduce_batch_size_fn=halve)
    def attempt(batch_size: int) -> None:
        run(batch_size + batch_size // 4)

    try:
        attempt()
    except RuntimeError as error:
        if size:  # it was no want of memory
            raise
        raise no_room(device) from error
    if size < most:
        logger.info("Batches of %d windows, not %d, fit the memory of %s", size, most, device)
    return size


def no_room(device: torch.device) -> UserError:
    """Return the mistake of a user whose device has no memory for a single window."""
    return UserError(
        f"one window at a time does not fit the memory of {device}: free some, choose shorter windows "
        "(--window_seconds) or a smaller model, or take the processor (--use_cpu)"
    )
