"""Workers without room to hand over their batches are refused before they start."""

from types import SimpleNamespace

import pytest

from hf_utils.errors import UserError
from hf_utils.training import shared_memory
from hf_utils.training.shared_memory import check_shared_memory

# Two workers make two batches ahead, and one is being worked on.
NEEDED = 4 * 1000 * 16 * (2 * 2 + 1)


def check(monkeypatch, free, num_workers, prefetch_factor=None):
    monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    args = SimpleNamespace(
        dataloader_num_workers=num_workers,
        dataloader_prefetch_factor=prefetch_factor,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=16,
    )
    check_shared_memory(args, window_samples=1000)


def test_too_little_room_is_one_message_with_the_ways_out(monkeypatch):
    ways_out = r"--dataloader_num_workers 2 .*/dev/shm.*--shm-size.*--dataloader_num_workers 0"
    with pytest.raises(UserError, match=ways_out):
        check(monkeypatch, NEEDED - 1, 2)
    with pytest.raises(UserError, match="--shm-size"):
        check(monkeypatch, NEEDED - 1, 1, prefetch_factor=4)


def test_enough_room_or_no_workers_pass(monkeypatch):
    check(monkeypatch, NEEDED, 2)
    check(monkeypatch, NEEDED, 1)
    check(monkeypatch, 0, 0)
