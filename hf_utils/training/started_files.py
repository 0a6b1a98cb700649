"""Files whose windows are on their way through a model. T samples, W windows, K genres."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

import numpy as np
import torch
from transformers import PreTrainedConfig

from hf_utils.audio import stream_windows
from hf_utils.data.window_lengths import WindowLengths
from hf_utils.models.families import probabilities_of
from hf_utils.models.window_pool import WindowPool
from hf_utils.sound_check import AudioError


@dataclasses.dataclass(frozen=True)
class StartedFile:
    """A file whose windows are in the pool.

    Attributes:
        times: when each window starts and ends, in seconds.
        outputs: logits of its batches, to come.
        error: why it could not be read to its end.
    """

    times: list[tuple[str, str]]
    outputs: list[Future]
    error: AudioError | None = None

    def finish(self, config: PreTrainedConfig) -> tuple[list[tuple[str, str]], np.ndarray]:
        """Return `times`, and probabilities (W, K). Raises AudioError."""
        if self.error is not None:
            raise self.error
        outputs = torch.cat([output.result() for output in self.outputs])
        if not outputs.isfinite().all():
            raise AudioError("the model's outputs are not finite")
        return self.times, probabilities_of(config, outputs.numpy())


def start_ahead(
    pool: WindowPool, decoded: Iterable[Iterable[np.ndarray]], lengths: WindowLengths
) -> Iterator[StartedFile]:
    """Yield every file in order; as many of those after it as the pool has threads are started by then."""
    started: collections.deque[StartedFile] = collections.deque()
    for blocks in decoded:
        started.append(start_file(pool, blocks, lengths))
        if len(started) > pool.num_threads:
            yield started.popleft()
    yield from started


def start_file(pool: WindowPool, blocks: Iterable[np.ndarray], lengths: WindowLengths) -> StartedFile:
    """Hand the windows of a file to the pool; it comes in blocks (T,)."""
    times = []

    def cut_windows() -> Iterator[np.ndarray]:
        for start, end, window in stream_windows(blocks, lengths.window_samples, lengths.hop_samples):
            times.append((f"{start / lengths.sample_rate:.3f}", f"{end / lengths.sample_rate:.3f}"))
            yield window

    try:
        return StartedFile(times, pool.submit(cut_windows()))
    except AudioError as error:
        return StartedFile(times, [], error)
