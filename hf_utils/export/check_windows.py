"""Windows of music on which an exported file is compared with its model. S samples."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from hf_utils.audio import cut_window, decode, hash_samples, resample
from hf_utils.config_files import read_config
from hf_utils.data.audio_lists import list_files
from hf_utils.data.demo_data import SAMPLE_RATE, STYLES, synthesise
from hf_utils.data.split_record import SplitRecord
from hf_utils.data.window_lengths import WindowLengths
from hf_utils.errors import UserError
from hf_utils.files import CONFIG_FILE, RECORD_FILE
from hf_utils.hub.run_files import find_run_file
from hf_utils.sound_check import MIN_SECONDS, AudioError


@dataclasses.dataclass(frozen=True)
class CheckWindows:
    """Windows (S,), each of another track, and what they are of, in words."""

    windows: list[np.ndarray]
    source: str


def find_windows(name: str, lengths: WindowLengths, music: Path | None, count: int) -> CheckWindows:
    """Return `count` windows or fewer, each of a track: of `music`, of what the run was trained on, or synthesised.

    Tracks that a run was not trained on are left out, so that no test track decides anything.

    Args:
        name: of the checkpoint.
        lengths: of its windows.
        music: a file, or a folder of music.

    Raises:
        UserError: there is no readable music in `music`.
    """
    if music is not None:
        files = [music] if music.is_file() else list_files(music)[0]
        windows = cut_windows(_decode(files), lengths, count)
        if not windows:
            raise UserError(f"--music {music} holds no music that can be read: expected a file or a folder of files")
        return CheckWindows(windows, str(music))
    folder, path = _find_dataset(name), find_run_file(name, RECORD_FILE)
    if folder is not None and path is not None:
        record = SplitRecord.read(path, name)
        tracks = (track for track in _decode(list_files(folder)[0]) if record.was_trained_on(hash_samples(track[0])))
        windows = cut_windows(tracks, lengths, count)
        if windows:
            return CheckWindows(windows, f"training tracks in {folder}")
    return CheckWindows(synthesise_windows(lengths, count), "synthesised music")


def _find_dataset(name: str) -> Path | None:
    """Return the folder that the run of a checkpoint had its music from; None if it is not here."""
    config = find_run_file(name, CONFIG_FILE)
    dataset = read_config(config).get("dataset_name") if config else None
    return Path(dataset) if isinstance(dataset, str) and Path(dataset).is_dir() else None


def _decode(files: list[Path]) -> Iterator[tuple[np.ndarray, int]]:
    """Yield samples and sampling rates of readable files, in an order in which the first few are from everywhere."""
    order = np.random.default_rng(0).permutation(len(files))
    for file in (files[index] for index in order):
        try:
            yield decode(file)
        except AudioError:
            continue


def synthesise_windows(lengths: WindowLengths, count: int) -> list[np.ndarray]:
    """Return `count` windows (S,) of synthesised music, each of another track, of all styles in turn."""
    seconds = max(lengths.window_samples / lengths.sample_rate, MIN_SECONDS)
    styles = list(STYLES)
    tracks = (synthesise(styles[i % len(styles)], i // len(styles), seconds, seed=0) for i in range(count))
    return cut_windows(((samples, SAMPLE_RATE) for samples in tracks), lengths, count)


def cut_windows(tracks: Iterable[tuple[np.ndarray, int]], lengths: WindowLengths, count: int) -> list[np.ndarray]:
    """Return a window (S,) from the middle of each of the first `count` tracks, which are samples and their rate."""
    windows = []
    for samples, sample_rate in itertools.islice(tracks, count):
        samples = resample(samples, sample_rate, lengths.sample_rate)
        start = max(samples.size - lengths.window_samples, 0) // 2
        windows.append(cut_window(samples, start, lengths.window_samples))
    return windows
