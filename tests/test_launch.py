"""What surrounds a script: its lock, and the exit code and message of what ends it."""

import gc

import pytest

from hf_utils.errors import UserError
from hf_utils.launch import importing_libraries, lock_file, run_script


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "message",  # of PyTorch 2.11
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out "
        "of shared memory. Please try to raise your shared memory limit.",
        "unable to allocate shared memory(shm) for file </torch_7_1_0>: No space left on device (28)",
        "unable to write to file </torch_7_1_0>: No space left on device (28)",
    ],
)
def test_workers_without_shared_memory_are_one_message(message, capsys):
    with pytest.raises(SystemExit) as exit:
        run_script(raising(RuntimeError(message)))
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert "/dev/shm" in error and "--dataloader_num_workers 0" in error and "--shm-size" in error


@pytest.mark.parametrize(
    "message",
    [
        "unable to open shared memory object </torch_7_1_0> in read-write mode: Too many open files (24)",
        "out of resource: shared memory, Required: 147456, Hardware limit: 101376",
        "PytorchStreamWriter failed writing file data/3: No space left on device",
    ],
)
def test_other_errors_that_name_shared_memory_or_a_full_disk_keep_their_traceback(message):
    with pytest.raises(RuntimeError, match=message[:20]):
        run_script(raising(RuntimeError(message)))


def test_other_errors_keep_their_traceback_and_mistakes_have_none(capsys):
    with pytest.raises(RuntimeError, match="odd"):
        run_script(raising(RuntimeError("odd")))
    with pytest.raises(SystemExit) as exit:
        run_script(raising(UserError("--fold is 11")))
    assert exit.value.code == 2 and capsys.readouterr().err == "error: --fold is 11\n"


def test_a_lock_is_held_once_and_follows_its_file(tmp_path):
    first = lock_file(tmp_path / "log")
    assert lock_file(tmp_path / "log") is None
    first.close()
    second = lock_file(tmp_path / "log")
    (tmp_path / "log").unlink()  # whoever locks the name now has another file
    third = lock_file(tmp_path / "log")
    assert second is not None and third is not None
    second.close()
    third.close()


def test_what_a_script_imports_is_not_searched_for_garbage():
    gc.unfreeze()
    try:
        with pytest.raises(UserError), importing_libraries():
            assert not gc.isenabled()
            kept = [{}]
            raise UserError("also after a mistake")
        assert gc.isenabled() and gc.get_freeze_count() > 0
        assert all(found is not kept for found in gc.get_objects())
        frozen = gc.get_freeze_count()
        with importing_libraries():
            kept.append([{}])
        assert gc.get_freeze_count() <= frozen  # what a second call leaves as garbage is still found
        assert any(found is kept[1] for found in gc.get_objects())
    finally:
        gc.freeze()  # as after collection
