"""Room for the batches that workers of a data loader hand over, in /dev/shm."""

import shutil
from pathlib import Path

from hf_utils.errors import UserError

_FOLDER = Path("/dev/shm")
_PREFETCH = 2  # batches that a worker makes ahead, unless dataloader_prefetch_factor is given


def check_shared_memory(training_args, window_samples: int) -> None:
    """Stop where the workers' batches would not fit: a worker without room dies, and the run waits for it forever.

    A window is counted as its float32 samples; its features are about as large. Containers have 64 MB unless they are
    told otherwise.

    Raises:
        UserError: what is needed and what is there, with the ways out.
    """
    workers = training_args.dataloader_num_workers
    if not workers or not _FOLDER.is_dir():
        return
    windows = max(training_args.per_device_train_batch_size, training_args.per_device_eval_batch_size)
    # The batch that the model is working on is still there, too.
    num_batches = workers * (training_args.dataloader_prefetch_factor or _PREFETCH) + 1
    needed, free = 4 * window_samples * windows * num_batches, shutil.disk_usage(_FOLDER).free
    if needed > free:
        raise UserError(
            f"--dataloader_num_workers {workers} needs {needed / 1e6:,.1f} MB of shared memory for batches of "
            f"{windows} windows, and {_FOLDER} has {free / 1e6:,.1f} MB. Give it more (Docker: `docker run --shm-size "
            "8g ...`), or do with smaller batches (--per_device_eval_batch_size) or without workers: "
            "--dataloader_num_workers 0."
        )
