"""Shards of augmented clips, made by a pool of processes. Which process makes which, and when, changes no byte."""

import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

from tqdm.auto import tqdm

from hf_utils.augmentation.copies import CopyPlan
from hf_utils.data.shards import Shards
from hf_utils.errors import UserError

logger = logging.getLogger(__name__)

# What a worker process works on; set once, when it starts.
_work: tuple[CopyPlan, Shards, bool] | None = None


class _BadClips(Exception):
    """Clips of a shard that cannot be used; the shard is not written."""


def write_shards(
    plan: CopyPlan, shards: Shards, indices: Sequence[int], *, num_proc: int, skip_bad_audio: bool
) -> None:
    """Make the shards `indices`, with a progress bar in clips. Finished ones stay, whatever happens to the others.

    Raises:
        UserError: no space or right to write; a process died; or, after all other shards are made, clips that cannot
            be used, every one with its reason, unless `skip_bad_audio` leaves them out.
    """
    problems: list[str] = []
    failed = 0
    total = sum(len(plan.shards[i]) for i in indices)
    with tqdm(total=total, desc="Copying", unit="clip", mininterval=1, disable=None) as bar:
        for index, found, is_written in _run(plan, shards, indices, num_proc, skip_bad_audio):
            problems += found
            failed += not is_written
            bar.update(len(plan.shards[index]))
    if not problems:
        return
    listing = "\n".join(f"  {problem}" for problem in sorted(set(problems)))
    if not failed:
        logger.warning("Left out, since they cannot be used:\n%s", listing)
        return
    raise UserError(
        f"{len(set(problems))} clips cannot be used:\n{listing}\nThe {failed} shards that they belong to are not "
        "written; all others are. Mend the files, or give --on_bad_audio skip, and run the same command again."
    )


def _run(
    plan: CopyPlan, shards: Shards, indices: Sequence[int], num_proc: int, skip_bad_audio: bool
) -> Iterator[tuple[int, list[str], bool]]:
    """Yield (shard, its bad clips, whether it was written) as they are done."""
    work = (plan, shards, skip_bad_audio)
    num_proc = min(num_proc, len(indices))
    if num_proc <= 1:
        yield from (_write_shard(*work, index) for index in indices)
        return
    pool = ProcessPoolExecutor(num_proc, initializer=_start_worker, initargs=work)
    try:
        for future in as_completed([pool.submit(_write_shard_of_worker, index) for index in indices]):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process was killed, perhaps for lack of memory. Finished shards are kept: run the same command again, "
            "with a smaller --num_proc if memory is short."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(*work) -> None:
    global _work
    _work = work
    # A worker whose parent was killed would wait for ever for the next shard.
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _write_shard_of_worker(index: int) -> tuple[int, list[str], bool]:
    return _write_shard(*_work, index)


def _write_shard(plan: CopyPlan, shards: Shards, skip_bad_audio: bool, index: int) -> tuple[int, list[str], bool]:
    problems: list[str] = []

    def rows() -> Iterator[dict]:
        yield from plan.make_rows(index, problems)
        if problems and not skip_bad_audio:
            raise _BadClips

    try:
        shards.write(index, rows(), plan.features)
    except _BadClips:
        return index, problems, False
    return index, problems, True
