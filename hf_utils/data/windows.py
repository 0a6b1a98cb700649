"""Windows of decoded clips, as PyTorch datasets. T is the number of samples of a window.

A clip table is a set of tracks; models see windows. Training draws one window per track per visit, evaluation covers
every track from start to end and knows which window belongs to which track.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import datasets
import numpy as np
import torch

from hf_utils.audio import cut_window, window_starts
from hf_utils.data.waveforms import read_samples
from hf_utils.errors import UserError
from hf_utils.seeding import derive_seed

# What a window needs to know of its clip. Plain Python rows: a row of an Arrow table costs 100 times as much to read.
_COLUMNS = ["track_id", "label", "num_samples", "pcm_path", "pcm_offset", "pcm_gain"]


@dataclasses.dataclass(frozen=True)
class WindowLengths:
    """How tracks are cut for a model: at `sample_rate` Hz, into windows that, for evaluation, begin a hop apart."""

    sample_rate: int
    window_samples: int
    hop_samples: int


def _rows(clips: datasets.Dataset) -> list[Mapping]:
    return clips.select_columns(_COLUMNS).to_list()


def _read_window(clip: Mapping, start: int, window_samples: int) -> np.ndarray:
    if clip["num_samples"] < window_samples:
        return cut_window(read_samples(clip), 0, window_samples)
    return read_samples(clip, start, window_samples)


class TrainingWindows(torch.utils.data.Dataset):
    """One random window of every clip: `[i]` is `{"samples": float32 (T,), "label": int, "seed": int}`.

    `seed` depends only on the run's seed, the epoch and the track. The start of the window comes from it, and
    so must every later random choice about the window (augmentation, SpecAugment): then the same windows come out
    under any number of data-loader workers and processes, and after a resume.

    `grid` draws from the back-to-back windows that cover the clip, of which the last ends with it, and not from all.
    `transform(samples, seed) -> samples`, if given, changes the window before its features are computed.
    """

    def __init__(
        self,
        clips: datasets.Dataset,
        window_samples: int,
        *,
        seed: int,
        grid: bool = False,
        transform: Callable[[np.ndarray, int], np.ndarray] | None = None,
    ):
        self._clips = _rows(clips)
        self._window_samples = window_samples
        self._seed = seed
        self._grid = grid
        self._transform = transform
        self._epoch = 0

    @property
    def varying_option(self) -> str | None:
        """The option by which the windows differ from epoch to epoch; None if they are the same in every epoch."""
        if not self._grid:
            return "train_windows: random"
        return None if self._transform is None else "augmentation of training windows"

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer's data loader before each epoch, in the main process, before workers are started."""
        self._epoch = int(epoch)

    def __len__(self) -> int:
        return len(self._clips)

    def draw(self, index: int) -> tuple[int, int]:
        """Return the seed and the first sample of the window of clip `index` in this epoch."""
        clip = self._clips[index]
        seed = derive_seed(self._seed, self._epoch, clip["track_id"])
        number = derive_seed(seed, "start")
        if self._grid:
            starts = window_starts(clip["num_samples"], self._window_samples, self._window_samples)
            return seed, starts[number % len(starts)]
        return seed, number % (max(clip["num_samples"] - self._window_samples, 0) + 1)

    def __getitem__(self, index: int) -> dict:
        clip, (seed, start) = self._clips[index], self.draw(index)
        samples = _read_window(clip, start, self._window_samples)
        if self._transform is not None:
            samples = self._transform(samples, seed)
        return {"samples": samples, "label": clip["label"], "seed": seed}


class EvaluationWindows(torch.utils.data.Dataset):
    """Overlapping windows that cover every clip; W windows of N clips, in the order of the clips.

    `[i]` is as in `TrainingWindows`, with None for the seed: nothing random may be done to these windows.

    Attributes:
        track_ids: N names.
        labels: int64 (N,), the genre of each clip.
        track_index: int64 (W,), the clip that each window belongs to.
        start_samples: int64 (W,).
    """

    def __init__(self, clips: datasets.Dataset, window_samples: int, hop_samples: int):
        self._clips = _rows(clips)
        self._window_samples = window_samples
        self.track_ids = [clip["track_id"] for clip in self._clips]
        self.labels = np.array([clip["label"] for clip in self._clips], dtype=np.int64)
        starts = [window_starts(clip["num_samples"], window_samples, hop_samples) for clip in self._clips]
        self.track_index = np.repeat(np.arange(len(starts)), [len(s) for s in starts]).astype(np.int64)
        self.start_samples = np.concatenate([np.array(s, dtype=np.int64) for s in starts])

    def fingerprint(self) -> str:
        """Return a digest of the samples of all windows in their order."""
        # The folder of a file of samples is named by what it holds.
        place = ("pcm_offset", "pcm_gain", "num_samples")
        clips = [(Path(clip["pcm_path"]).parent.name, *(clip[name] for name in place)) for clip in self._clips]
        windows = self.track_index.tolist(), self.start_samples.tolist(), self._window_samples
        return hashlib.sha256(repr((clips, windows)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.track_index)

    def __getitem__(self, index: int) -> dict:
        clip = self._clips[self.track_index[index]]
        samples = _read_window(clip, int(self.start_samples[index]), self._window_samples)
        return {"samples": samples, "label": clip["label"], "seed": None}


def hop_samples_for(window_samples: int, hop_seconds: float | None, sample_rate: int) -> int:
    """Return the step between evaluated windows: half a window unless given. Raises UserError for gaps."""
    if hop_seconds is None:
        return max(1, window_samples // 2)
    hop_samples = round(hop_seconds * sample_rate)
    if not 0 < hop_samples <= window_samples:
        raise UserError(
            f"eval_hop_seconds is {hop_seconds}, expected more than 0 and at most the window's "
            f"{window_samples / sample_rate:g} s: beyond that some audio is never heard"
        )
    return hop_samples
