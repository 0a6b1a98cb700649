"""As many windows at once as there is memory for. A device without room is acted: by the error of PyTorch 2.11."""

import pytest
import torch

from hf_utils.errors import UserError
from hf_utils.models.batch_sizes import fit_batch_size

GPU = torch.device("cuda")  # a name; nothing is put there
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB."


def run_with_room_for(room: int, tried: list[int]):
    def run(number: int) -> None:
        tried.append(number)
        if number > room:
            raise torch.OutOfMemoryError(FULL)

    return run


@pytest.mark.parametrize(
    ("room", "size", "tried"),
    [(160, 128, [160]), (159, 64, [160, 80]), (40, 32, [160, 80, 40]), (1, 1, [160, 80, 40, 20, 10, 5, 2, 1])],
)
def test_a_batch_is_halved_until_a_quarter_more_fits(room, size, tried):
    seen = []
    assert fit_batch_size(run_with_room_for(room, seen), 128, GPU) == size and seen == tried


def test_no_room_for_one_window_is_one_message():
    with pytest.raises(UserError, match="one window .* memory of cuda.*--window_seconds.*--use_cpu"):
        fit_batch_size(run_with_room_for(0, []), 4, GPU)


def test_other_errors_are_not_taken_for_want_of_memory():
    def run(number):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        fit_batch_size(run, 4, GPU)


def test_nothing_is_tried_on_the_processor():
    assert fit_batch_size(lambda number: pytest.fail("tried"), 16, torch.device("cpu")) == 16
