"""Features that are computed once per run: T samples of a window, C channels, F frequency bins.

A spectrogram's frame depends on the samples around it and on nothing else. Where the extractor is known to work like
that, the frames of whole tracks are kept, and a training window that starts at a frame is a slice of them. The windows
of evaluation are the same in every epoch, so their features are kept as they are, whatever the extractor.

What is kept is what the feature extractor of the model makes, to 1e-5 and less; tests compare them. It is computed in
fixed blocks, when a block is first needed: results do not depend on the order of visits, nor on the number of
data-loader workers, and nothing is computed that no window needs.
"""

import copy
import dataclasses
import functools
import math
import mmap
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import ASTFeatureExtractor

from hf_utils.data.waveforms import read_samples
from hf_utils.data.windows import EvaluationWindows, TrainingWindows, read_window
from hf_utils.models.families import AST_FRAME_SECONDS, AST_SHIFT_SECONDS
from hf_utils.models.musicnn.feature_extraction_musicnn import MusiCNNFeatureExtractor
from hf_utils.models.spectrogram_cnn.feature_extraction_spectrogram_cnn import SpectrogramCNNFeatureExtractor

AnyWindows = TrainingWindows | EvaluationWindows


@dataclasses.dataclass(frozen=True)
class Frames:
    """How the frames of an extractor lie on its samples: frame i reads `length` of them from i * hop - before on.

    Frames that reach past an end of the window hear its reflection, as of NumPy's and PyTorch's padding.

    Attributes:
        min_samples: shortest window of which this is true, and which has a frame inside it.
        time_axis: of the features of one window.
        compute: (samples (B, T)) -> features (B, ...) of all frames that lie inside these samples.
    """

    hop: int
    length: int
    before: int
    min_samples: int
    time_axis: int
    compute: Callable[[np.ndarray], np.ndarray]

    def span(self, begin: int, end: int) -> tuple[int, int]:
        """Return the first sample that frames [begin, end) read, and the one after the last."""
        return begin * self.hop - self.before, (end - 1) * self.hop - self.before + self.length


def find_frames(feature_extractor) -> Frames | None:
    """Return the frames of an extractor whose code is known; None for any other, such as one that a checkpoint brings.

    Subclasses may compute otherwise, so they do not count.
    """
    if type(feature_extractor) is ASTFeatureExtractor:
        rate = feature_extractor.sampling_rate
        hop, length = int(AST_SHIFT_SECONDS * rate), int(AST_FRAME_SECONDS * rate)
        compute = functools.partial(_compute_filter_banks, copy.copy(feature_extractor), hop, length)
        return Frames(hop, length, 0, length, 0, compute)
    if type(feature_extractor) is SpectrogramCNNFeatureExtractor:
        hop, length = feature_extractor.hop_length, feature_extractor.n_fft
        shortest = max(feature_extractor.min_samples, length + hop)
        return Frames(hop, length, length // 2, shortest, 2, feature_extractor.compute_frames)
    if type(feature_extractor) is MusiCNNFeatureExtractor:
        hop, length = feature_extractor.hop_length, feature_extractor.n_fft
        return Frames(hop, length, 0, length, 0, feature_extractor.compute_frames)
    return None


def _compute_filter_banks(extractor: ASTFeatureExtractor, hop: int, length: int, samples: np.ndarray) -> np.ndarray:
    extractor.max_length = 1 + (samples.shape[1] - length) // hop  # else it would pad or cut
    return extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np").input_values


def start_step(feature_extractor) -> int:
    """Return the samples that training windows should start at multiples of: a frame, or 1 where there are none."""
    frames = find_frames(feature_extractor)
    return 1 if frames is None else frames.hop


class SharedNumbers:
    """float32 numbers in memory that data-loader workers share, filled part by part.

    Memory is taken where numbers are written. A process that was not forked from the one that made this has its own
    copy, which begins empty.

    Attributes:
        numbers: float32 (size,).
    """

    def __init__(self, size: int, num_parts: int):
        self._size, self._num_parts = size, num_parts
        self._reserve()

    def _reserve(self) -> None:
        # Anonymous and shared: a forked worker writes to the same pages.
        self.numbers = np.frombuffer(mmap.mmap(-1, 4 * self._size), np.float32)
        self._filled = np.frombuffer(mmap.mmap(-1, self._num_parts), np.uint8)
        self._lock = multiprocessing.Lock()

    def __getstate__(self) -> dict:
        return {"_size": self._size, "_num_parts": self._num_parts}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._reserve()

    def fill(self, part: int, write: Callable[[], None]) -> None:
        """Have `write` write the numbers of a part, unless it has been done. They are the same whoever does it."""
        with self._lock:  # whoever sees that a part is filled must see its numbers, too
            filled = self._filled[part]
        if not filled:
            write()
            with self._lock:
                self._filled[part] = 1


class KeptWindows:
    """Features of windows that are the same in every epoch; `places` are their clips and first samples."""

    def __init__(self, feature_extractor, windows: AnyWindows, places: Sequence[tuple[int, int]]):
        self._extractor, self._clips, self._window_samples = feature_extractor, windows.clips, windows.window_samples
        self._places = {place: number for number, place in enumerate(places)}
        self._shape = self._compute(np.zeros(self._window_samples, np.float32)).shape
        self._size = math.prod(self._shape)

    @property
    def num_bytes(self) -> int:
        """Memory that all features take."""
        return 4 * self._size * len(self._places)

    def reserve(self) -> None:
        """Make room for the features."""
        self._kept = SharedNumbers(self._size * len(self._places), len(self._places))

    def _compute(self, samples: np.ndarray) -> np.ndarray:
        extractor = self._extractor
        batch = extractor([samples], sampling_rate=extractor.sampling_rate, return_tensors="np")
        return batch[extractor.model_input_names[0]][0]

    def read(self, places: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return the features of windows of clips that start at these samples; not to be written to."""
        return [self._read_window(*place) for place in places]

    def _read_window(self, clip: int, start: int) -> np.ndarray:
        number = self._places[clip, start]
        kept = self._kept.numbers[number * self._size : (number + 1) * self._size].reshape(self._shape)

        def write() -> None:
            kept[...] = self._compute(read_window(self._clips[clip], start, self._window_samples))

        self._kept.fill(number, write)
        return kept


class KeptTracks:
    """Frames of whole tracks, for windows that start at any frame; those that hear a reflection are computed anew."""

    def __init__(self, frames: Frames, clips: Sequence[Mapping[str, Any]], window_samples: int):
        self._frames, self._clips, self._window_samples = frames, clips, window_samples
        padding = 2 * frames.before
        example = frames.compute(np.zeros((1, window_samples + padding), np.float32))[0]
        self._shape, self._num_frames = example.shape, example.shape[frames.time_axis]
        self._frame_size = example.size // self._num_frames
        # Of a window, frames [first, last) lie inside it.
        self._first, self._last = -(-frames.before // frames.hop), self._count_before_end(window_samples)
        # Of a track, frames from `first` on are kept. A clip that is shorter than a window is repeated to fill one.
        lengths = [max(clip["num_samples"], window_samples) for clip in clips]
        self._counts = [self._count_before_end(length) - self._first for length in lengths]
        self._block = -(-self._num_frames // 2)  # so a window touches three blocks at most
        self._blocks = np.cumsum([0, *(-(-count // self._block) for count in self._counts)]).tolist()
        self._offsets = (np.cumsum([0, *self._counts], dtype=np.int64) * self._frame_size).tolist()

    def _count_before_end(self, num_samples: int) -> int:
        """Return how many frames do not reach past the end of so many samples."""
        return (num_samples + self._frames.before - self._frames.length) // self._frames.hop + 1

    @property
    def num_bytes(self) -> int:
        """Memory that all frames take."""
        return 4 * self._offsets[-1]

    def reserve(self) -> None:
        """Make room for the frames."""
        self._kept = SharedNumbers(self._offsets[-1], self._blocks[-1])

    def read(self, places: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return the features of windows of clips that start at multiples of the hop; not to be written to."""
        inside = [self._read_inside(clip, start // self._frames.hop) for clip, start in places]
        return inside if inside[0].shape == self._shape else self._add_edges(inside, places)

    def _read_inside(self, clip: int, begin: int) -> np.ndarray:
        track, end = self._track(clip), begin + self._last - self._first
        for block in range(begin // self._block, (end - 1) // self._block + 1):
            self._kept.fill(self._blocks[clip] + block, functools.partial(self._write, clip, track, block))
        return self._slice(track, begin, end)

    def _track(self, clip: int) -> np.ndarray:
        shape = list(self._shape)
        shape[self._frames.time_axis] = self._counts[clip]
        return self._kept.numbers[self._offsets[clip] : self._offsets[clip + 1]].reshape(shape)

    def _slice(self, features: np.ndarray, begin: int, end: int) -> np.ndarray:
        return features[(slice(None),) * self._frames.time_axis + (slice(begin, end),)]

    def _write(self, clip: int, track: np.ndarray, block: int) -> None:
        begin = block * self._block
        end = min(begin + self._block, self._counts[clip])
        span = self._frames.span(self._first + begin, self._first + end)
        computed = self._frames.compute(self._read_samples(clip, *span)[None])[0]
        self._slice(track, begin, end)[...] = computed

    def _add_edges(self, inside: list[np.ndarray], places: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return all features of windows, from those inside them and as many as lack at each of their ends."""
        behind = self._num_frames - self._last
        count = max(self._first, behind)
        ends = [self._read_ends(clip, start, count) for clip, start in places]
        edges = self._frames.compute(np.concatenate(ends))
        features = []
        for middle, left, right in zip(inside, edges[::2], edges[1::2], strict=True):
            parts = self._slice(left, 0, self._first), middle, self._slice(right, count - behind, count)
            features.append(np.concatenate(parts, self._frames.time_axis))
        return features

    def _read_ends(self, clip: int, start: int, count: int) -> np.ndarray:
        """Return (2, T): the samples that the first and the last `count` frames of a window read, reflections too."""
        before, length = self._frames.before, self._window_samples
        _, left_end = self._frames.span(0, count)
        left = self._read_samples(clip, start, start + max(left_end, before + 1))
        right_begin, right_end = self._frames.span(self._num_frames - count, self._num_frames)
        behind = max(0, right_end - length)  # with a wide hop, the last frame may end inside the window
        begin = min(right_begin, length - behind - 1)
        right = self._read_samples(clip, start + begin, start + length)
        left = np.concatenate([left[before:0:-1], left[:left_end]])
        right = np.concatenate([right[right_begin - begin : right_end - begin], right[-2 : -2 - behind : -1]])
        return np.stack([left, right])

    def _read_samples(self, clip: int, begin: int, end: int) -> np.ndarray:
        row = self._clips[clip]
        if row["num_samples"] < self._window_samples:
            return read_window(row, 0, self._window_samples)[begin:end]
        return read_samples(row, begin, end - begin)


def keep_features(windows: AnyWindows, feature_extractor, max_bytes: int) -> int:
    """Let windows come with features that are computed once, where they can and where they take `max_bytes` at most.

    To be called when the extractor is as it will be saved. Returns the bytes that the features may take; 0 where they
    are computed for each batch, as they are for windows that a transform changes.
    """
    kept = _choose(windows, feature_extractor)
    if kept is None or kept.num_bytes > max_bytes:
        return 0
    kept.reserve()
    windows.features = kept
    return kept.num_bytes


def _choose(windows: AnyWindows, feature_extractor) -> KeptWindows | KeptTracks | None:
    if isinstance(windows, TrainingWindows) and windows.transform is not None:
        return None
    places = windows.places()
    if places is not None:
        return KeptWindows(feature_extractor, windows, places)
    frames = find_frames(feature_extractor)
    if frames is None or windows.window_samples < frames.min_samples:
        return None
    return KeptTracks(frames, windows.clips, windows.window_samples)
