"""Several batches of windows at once through one model that is not trained. W windows, T samples."""

import itertools
import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from hf_utils.cores import count_cores
from hf_utils.models.batch_sizes import no_room
from hf_utils.models.features import run_windows

logger = logging.getLogger(__name__)

# A thread holds a batch and what the model makes of it, so more of them take memory; beyond that, operations share.
MOST_THREADS = 4


class WindowPool:
    """Threads that each take a batch of windows, its features and the model, on their share of the cores.

    Threads that share one operation wait for each other at its end, and spin while they wait: beside processes that
    decode, an operation on two cores takes twice as much of them as on one. Before a GPU, features of some batches are
    made while it computes another.

    The outputs of a batch are the same whatever else is in the pool. To be used in a `with` block.
    """

    def __init__(self, model, feature_extractor, *, batch_size: int, precision: torch.dtype | None = None):
        """Make a pool.

        Args:
            batch_size: of the windows that are handed over together; half of it from when there is no memory for it.
            precision: as of `run_windows`.
        """
        self._model, self._feature_extractor = model, feature_extractor
        self._batch_size, self._precision = batch_size, precision
        cores = count_cores()
        num_threads = min(cores, MOST_THREADS)
        self._threads = ThreadPoolExecutor(
            num_threads, initializer=torch.set_num_threads, initargs=(cores // num_threads,)
        )
        self.num_threads = num_threads
        # A batch for each thread, and one that it can go on with.
        self._room = threading.Semaphore(2 * num_threads)

    def __enter__(self):
        self._cores_before = torch.get_num_threads()
        return self

    def __exit__(self, *exception) -> None:
        self._threads.shutdown(cancel_futures=True)
        torch.set_num_threads(self._cores_before)  # of threads to come

    def submit(self, windows: Iterable[np.ndarray]) -> list[Future[torch.Tensor]]:
        """Hand over windows (T,), and return the logits to come, (W, K) of each batch; wait where there is no room."""
        windows, outputs = iter(windows), []
        while batch := list(itertools.islice(windows, self._batch_size)):
            self._room.acquire()
            outputs.append(self._threads.submit(self._run, batch))
        return outputs

    def _run(self, batch: list[np.ndarray]) -> torch.Tensor:
        try:
            while True:
                size = self._batch_size
                try:
                    return run_windows(
                        self._model, self._feature_extractor, batch, batch_size=size, precision=self._precision
                    )
                except RuntimeError as error:
                    if not should_reduce_batch_size(error):
                        raise
                    if size == 1:
                        raise no_room(self._model.device) from error
                self._batch_size = min(self._batch_size, size // 2)  # another thread may have found the same
                logger.info("No memory for %d windows at once: %d from now on", size, self._batch_size)
                clear_device_cache()
        finally:
            self._room.release()
