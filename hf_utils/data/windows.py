"""Windows of decoded clips, as PyTorch datasets. T is the number of samples of a window.

A clip table is a set of tracks; models see windows. Training draws one window per track per visit, evaluation covers
every track from start to end and knows which window belongs to which track.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import datasets
import numpy as np
import torch

from hf_utils.audio import cut_window, window_starts
from hf_utils.data.visits import Visit, VisitPlan
from hf_utils.data.waveforms import read_samples
from hf_utils.seeding import derive_seed

# What a window needs to know of its clip. Plain Python rows: a row of an Arrow table costs 100 times as much to read.
_COLUMNS = ["track_id", "label", "num_samples", "pcm_path", "pcm_offset", "pcm_gain"]


def _rows(clips: datasets.Dataset) -> list[Mapping]:
    return clips.select_columns(_COLUMNS).to_list()


def read_window(clip: Mapping, start: int, window_samples: int) -> np.ndarray:
    """Return a window of a row of decoded clips, float32 (T,); a clip that is shorter is repeated to fill it."""
    if clip["num_samples"] < window_samples:
        return cut_window(read_samples(clip), 0, window_samples)
    return read_samples(clip, start, window_samples)


def _join(windows: list[dict], name: str, values: Sequence) -> list[dict]:
    return [{name: value, **window} for window, value in zip(windows, values, strict=True)]


class WindowFeatures(Protocol):
    """What knows the features of windows without being given their samples.

    Attributes:
        device: where the features lie.
    """

    device: torch.device

    def read(self, places: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """Return the features of the windows of clips, by their numbers, that start at samples."""


class TrainingWindows(torch.utils.data.Dataset):
    """One random window of every clip: `[i]` is `{"samples": float32 (T,), "label": int, "seed": int}`.

    With `features` set, which keeps them, `[i]` has `"features"` instead of samples. By another `plan`, an epoch has
    other windows, and `[i]` is the i-th. Where they are mixed, `[i]` also has `"partner"`, another such window, and
    `"share"`, what `[i]` keeps of itself.

    `seed` depends only on the run's seed, the epoch, the track and the number of the visit in this epoch. The start of
    the window comes from it, and so must every later random choice about the window (augmentation, SpecAugment): then
    the same windows come out under any number of data-loader workers and processes, and after a resume.

    `grid` draws from the back-to-back windows that cover the clip, of which the last ends with it, and not from all.
    `transform(samples, seed) -> samples`, if given, changes the window before its features are computed.
    `start_step`: random windows start at multiples of it.
    """

    def __init__(
        self,
        clips: datasets.Dataset,
        window_samples: int,
        *,
        seed: int,
        grid: bool = False,
        transform: Callable[[np.ndarray, int], np.ndarray] | None = None,
        start_step: int = 1,
        plan: VisitPlan | None = None,
    ):
        self.clips = _rows(clips)
        self.window_samples = window_samples
        self._seed = seed
        self._grid = grid
        self.transform = transform
        self._start_step = start_step
        self._plan = plan or VisitPlan()
        self.features: WindowFeatures | None = None
        # Data-loader workers that live longer than an epoch hear of the next one through it.
        self._shared_epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._listed: tuple[int, list[Visit]] | None = None

    @property
    def varying_option(self) -> str | None:
        """The option by which the windows differ from epoch to epoch; None if they are the same in every epoch."""
        if not self._grid:
            return "train_windows: random"
        if self._plan.mixup_alpha:
            return "mixup_alpha"
        return None if self.transform is None else "augmentation of training windows"

    def places(self) -> list[tuple[int, int]] | None:
        """Return the clip and the first sample of all windows that may be drawn; None if any position may be."""
        if not self._grid:
            return None
        length = self.window_samples
        starts = [window_starts(clip["num_samples"], length, length) for clip in self.clips]
        return [(clip, start) for clip, of_clip in enumerate(starts) for start in of_clip]

    @property
    def epoch(self) -> int:
        """The epoch whose windows are drawn."""
        return int(self._shared_epoch[0])

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer's data loader before each epoch, in the main process; workers hear of it as well."""
        self._shared_epoch[0] = int(epoch)

    @property
    def visits(self) -> list[Visit]:
        """The visits of this epoch."""
        if self._listed is None or self._listed[0] != self.epoch:
            self._listed = self.epoch, self._plan.list_visits(self.clips, self._seed, self.epoch)
        return self._listed[1]

    def __len__(self) -> int:
        return len(self.visits)

    def draw(self, index: int) -> tuple[int, int]:
        """Return the clip of window `index` of this epoch, and the first sample."""
        visit = self.visits[index]
        clip, number = self.clips[visit.clip], derive_seed(visit.seed, "start")
        if self._grid:
            starts = window_starts(clip["num_samples"], self.window_samples, self.window_samples)
            return visit.clip, starts[number % len(starts)]
        last_step = max(clip["num_samples"] - self.window_samples, 0) // self._start_step
        return visit.clip, self._start_step * (number % (last_step + 1))

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """Return several windows; the data loader asks for a batch."""
        windows = self._read(indices)
        if self._plan.mixup_alpha:
            partners, shares = zip(*(self._plan.draw_partner(i, self.visits) for i in indices), strict=True)
            windows = _join(windows, "partner", self._read(partners))
            windows = _join(windows, "share", shares)
        return windows

    def _read(self, indices: Sequence[int]) -> list[dict]:
        places, visits = [self.draw(index) for index in indices], self.visits
        seeds = [visits[index].seed for index in indices]
        labels = [self.clips[clip]["label"] for clip, _ in places]
        windows = [{"label": label, "seed": seed} for label, seed in zip(labels, seeds, strict=True)]
        if self.features is not None:
            return _join(windows, "features", self.features.read(places))
        samples = [read_window(self.clips[clip], start, self.window_samples) for clip, start in places]
        if self.transform is not None:
            samples = [self.transform(x, seed) for x, seed in zip(samples, seeds, strict=True)]
        return _join(windows, "samples", samples)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]


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
        self.clips = _rows(clips)
        self.window_samples = window_samples
        self.track_ids = [clip["track_id"] for clip in self.clips]
        self.labels = np.array([clip["label"] for clip in self.clips], dtype=np.int64)
        starts = [window_starts(clip["num_samples"], window_samples, hop_samples) for clip in self.clips]
        self.track_index = np.repeat(np.arange(len(starts)), [len(s) for s in starts]).astype(np.int64)
        self.start_samples = np.concatenate([np.array(s, dtype=np.int64) for s in starts])
        self.features: WindowFeatures | None = None

    def places(self) -> list[tuple[int, int]]:
        """Return the clip and the first sample of every window."""
        return list(zip(self.track_index.tolist(), self.start_samples.tolist(), strict=True))

    def fingerprint(self) -> str:
        """Return a digest of the samples of all windows in their order."""
        # The folder of a file of samples is named by what it holds.
        place = ("pcm_offset", "pcm_gain", "num_samples")
        clips = [(Path(clip["pcm_path"]).parent.name, *(clip[name] for name in place)) for clip in self.clips]
        windows = self.track_index.tolist(), self.start_samples.tolist(), self.window_samples
        return hashlib.sha256(repr((clips, windows)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.track_index)

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """Return several windows; the data loader asks for a batch."""
        places = [(int(self.track_index[index]), int(self.start_samples[index])) for index in indices]
        windows = [{"label": self.clips[clip]["label"], "seed": None} for clip, _ in places]
        if self.features is not None:
            return _join(windows, "features", self.features.read(places))
        samples = [read_window(self.clips[clip], start, self.window_samples) for clip, start in places]
        return _join(windows, "samples", samples)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]
