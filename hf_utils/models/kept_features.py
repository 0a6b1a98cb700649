"""Features that are computed once per run: B windows, T samples, C channels, F frequency bins.

A frame of a spectrogram depends on the samples that it covers and on nothing else. Where the extractor is known to
work like that, the frames of whole tracks are kept, and a training window that starts at a frame is a slice of them.
The windows of evaluation are the same in every epoch, so their features are kept as they are, whatever the extractor.

What is kept is what the feature extractor of the model makes, to 1e-5 and less; tests compare them. All of it is
computed when a window is first asked for, by a thread for each core, and each part by one of them alone, so that the
result does not depend on their number. It lies where the model is, if there is room: then no batch is brought there.
"""

import concurrent.futures
import copy
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor

from hf_utils.cores import count_cores
from hf_utils.data.waveforms import read_samples
from hf_utils.data.windows import EvaluationWindows, TrainingWindows, read_window
from hf_utils.models.families import AST_FRAME_SECONDS, AST_SHIFT_SECONDS, normalize_waveforms
from hf_utils.models.musicnn.feature_extraction_musicnn import MusiCNNFeatureExtractor
from hf_utils.models.spectrogram_cnn.feature_extraction_spectrogram_cnn import SpectrogramCNNFeatureExtractor

AnyWindows = TrainingWindows | EvaluationWindows

# Frames that are computed at once: bounds the memory for spectra of long tracks.
_BLOCK_FRAMES = 4096
# Of a GPU's memory, what the features of all sets may take; the rest is for the model.
_GPU_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Frames:
    """How the frames of an extractor lie on its samples: frame i is computed from `length` of them, from i * hop on.

    Attributes:
        min_samples: shortest window of which this is true.
        time_axis: of the features of one window.
        compute: (samples (B, T)) -> features (B, ...) of all frames that lie in these samples.
        finish: (features (B, ...)) -> features (B, ...): what is done to a window as a whole, if anything is.
    """

    hop: int
    length: int
    min_samples: int
    time_axis: int
    compute: Callable[[np.ndarray], np.ndarray]
    finish: Callable[[torch.Tensor], torch.Tensor] | None = None

    def count(self, num_samples: int) -> int:
        """Return how many frames lie in so many samples."""
        return 1 + (num_samples - self.length) // self.hop


def find_frames(feature_extractor) -> Frames | None:
    """Return the frames of an extractor whose code is known; None for any other, such as one that a checkpoint brings.

    Subclasses may compute otherwise, so they do not count. A sample is a frame of the extractors of waveforms.
    """
    kind, extractor = type(feature_extractor), feature_extractor
    if kind is ASTFeatureExtractor:
        rate = extractor.sampling_rate
        hop, length = int(AST_SHIFT_SECONDS * rate), int(AST_FRAME_SECONDS * rate)
        return Frames(hop, length, length, 0, functools.partial(_compute_filter_banks, extractor, hop, length))
    if kind is SpectrogramCNNFeatureExtractor and not extractor.center:
        # The level is a window's, so that its frames are kept as they are before.
        plain, finish = extractor, None
        if extractor.level_normalization:
            plain, finish = copy.copy(extractor), extractor.normalize
            plain.level_normalization = plain.do_normalize = False
        compute = functools.partial(_extract, plain)
        return Frames(extractor.hop_length, extractor.n_fft, extractor.min_samples, 2, compute, finish)
    if kind is MusiCNNFeatureExtractor:
        return Frames(extractor.hop_length, extractor.n_fft, extractor.n_fft, 0, extractor.compute_frames)
    if kind is Wav2Vec2FeatureExtractor:
        return Frames(1, 1, 1, 0, lambda samples: samples, normalize_waveforms if extractor.do_normalize else None)
    return None


def _extract(extractor, samples: np.ndarray) -> np.ndarray:
    batch = extractor(list(samples), sampling_rate=extractor.sampling_rate, return_tensors="np")
    return batch[extractor.model_input_names[0]]


def _compute_filter_banks(extractor: ASTFeatureExtractor, hop: int, length: int, samples: np.ndarray) -> np.ndarray:
    extractor = copy.copy(extractor)  # several threads are here at once
    extractor.max_length = 1 + (samples.shape[1] - length) // hop  # else it would pad or cut
    return _extract(extractor, samples)


def start_step(feature_extractor) -> int:
    """Return the samples that training windows should start at multiples of: a frame, or 1 where there are none."""
    frames = find_frames(feature_extractor)
    return 1 if frames is None else frames.hop


class KeptWindows:
    """Features of windows that are the same in every epoch; `places` are their clips and first samples."""

    def __init__(
        self, feature_extractor, windows: AnyWindows, places: Sequence[tuple[int, int]], device: torch.device
    ):
        self._extractor, self._clips, self._window_samples = feature_extractor, windows.clips, windows.window_samples
        self._places, self.device = {place: number for number, place in enumerate(places)}, device
        self.num_bytes = len(places) * _extract(feature_extractor, np.zeros((1, self._window_samples), "f4")).nbytes

    @functools.cached_property
    def _windows(self) -> list[torch.Tensor]:
        return [features.to(self.device) for features in _in_threads(self._compute, self._places)]

    def _compute(self, place: tuple[int, int]) -> torch.Tensor:
        clip, start = place
        samples = read_window(self._clips[clip], start, self._window_samples)
        return torch.from_numpy(_extract(self._extractor, samples[None])[0])

    def read(self, places: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """Return the features of windows of clips that start at these samples; not to be written to."""
        return [self._windows[self._places[place]] for place in places]


class KeptTracks:
    """Frames of whole tracks, for windows that start at any frame."""

    def __init__(self, frames: Frames, clips: Sequence[Mapping[str, Any]], window_samples: int, device: torch.device):
        self._frames, self._clips, self._window_samples, self.device = frames, clips, window_samples, device
        self._num_frames = frames.count(window_samples)
        frame_bytes = frames.compute(np.zeros((1, window_samples), "f4")).nbytes // self._num_frames
        self.num_bytes = frame_bytes * sum(frames.count(self._length(clip)) for clip in clips)

    def _length(self, clip: Mapping[str, Any]) -> int:
        """Return the samples of a clip; one that is shorter than a window is repeated to fill one."""
        return max(clip["num_samples"], self._window_samples)

    @functools.cached_property
    def _tracks(self) -> list[torch.Tensor]:
        return [features.to(self.device) for features in _in_threads(self._compute, self._clips)]

    def _compute(self, clip: Mapping[str, Any]) -> torch.Tensor:
        frames = self._frames
        if clip["num_samples"] < self._window_samples:
            samples = read_window(clip, 0, self._window_samples)
        else:
            samples = read_samples(clip)
        count, parts = frames.count(len(samples)), []
        # The last block takes what is left: alone it might be shorter than the extractor takes.
        starts = [*range(0, max(count - _BLOCK_FRAMES, 1), _BLOCK_FRAMES), count]
        for begin, end in itertools.pairwise(starts):
            part = samples[begin * frames.hop : (end - 1) * frames.hop + frames.length]
            parts.append(torch.from_numpy(frames.compute(part[None])[0]))
        return torch.cat(parts, frames.time_axis)

    def read(self, places: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """Return the features of windows of clips that start at multiples of the hop; not to be written to."""
        axis, hop, finish = self._frames.time_axis, self._frames.hop, self._frames.finish
        slices = [self._tracks[clip].narrow(axis, start // hop, self._num_frames) for clip, start in places]
        return slices if finish is None else list(finish(torch.stack(slices)))


def _in_threads(compute: Callable[[Any], torch.Tensor], items: Iterable) -> Iterator[torch.Tensor]:
    """Yield what `compute` makes of each item, in their order; with one PyTorch thread in each of ours."""
    num_threads = torch.get_num_threads()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    workers = max(1, count_cores() // processes)
    items = list(items)
    try:
        with concurrent.futures.ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from tqdm(pool.map(compute, items), desc="Features", total=len(items), leave=False, disable=None)
    finally:
        torch.set_num_threads(num_threads)  # of threads that begin later


def keep_features(sets: Sequence[AnyWindows], feature_extractor, max_bytes: int, device: torch.device) -> int:
    """Let the windows of sets come with features that are computed once, where they can and while there is room.

    Together they take `max_bytes` at most, and a share of a GPU's memory; the first set comes first. To be called when
    the extractor is as it will be saved. `device` is the model's. Returns the bytes that the features will take.
    Those of the other sets are computed for each batch, as always of windows that a transform changes.
    """
    free, free_on_gpu = max_bytes, 0
    if device.type == "cuda":
        free_on_gpu = _GPU_SHARE * torch.cuda.get_device_properties(device).total_memory
    for windows in sets:
        kept = _choose(windows, feature_extractor, device)
        if kept is None or kept.num_bytes > free:
            continue
        free -= kept.num_bytes
        if device.type == "cuda":
            if kept.num_bytes <= free_on_gpu:
                free_on_gpu -= kept.num_bytes
            else:
                kept.device = torch.device("cpu")
        windows.features = kept
    return max_bytes - free


def _choose(windows: AnyWindows, feature_extractor, device: torch.device) -> KeptWindows | KeptTracks | None:
    if isinstance(windows, TrainingWindows) and windows.transform is not None:
        return None
    places = windows.places()
    if places is not None:
        return KeptWindows(feature_extractor, windows, places, device)
    frames = find_frames(feature_extractor)
    if frames is None or windows.window_samples < frames.min_samples:
        return None
    if frames.hop == 1 and device.type == "cpu":
        return None  # the samples themselves: they lie in memory as they are
    return KeptTracks(frames, windows.clips, windows.window_samples, device)
