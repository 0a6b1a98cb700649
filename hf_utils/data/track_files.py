"""The audio files of a clip table before they are decoded: read row by row, hashed and looked at once. T samples."""

import contextlib
import functools
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
from tqdm import tqdm

from hf_utils import audio
from hf_utils.files import hash_content

# Folders that are being filled, or that a killed process left.
BUILDING_PREFIX = ".building-"
_BLOCK_ROWS = 32


class Header(NamedTuple):
    """What a file states of itself: its rate in Hz and its length in seconds; 0 where it cannot be read."""

    sample_rate: int
    seconds: float


class TrackFiles:
    """The undecoded files of a clip table. It can be sent to other processes.

    Attributes:
        track_ids: names, by which corruptions are seeded.
        paths: of the files, or the names that they have inside a Parquet file; None where they have none.
    """

    def __init__(self, clips: datasets.Dataset):
        files = clips.select_columns("audio").cast_column("audio", datasets.Audio(decode=False))
        self.track_ids: list[str] = clips["track_id"][:]
        # Not by way of the whole column, which may hold the bytes of all files.
        self.paths: list[str | None] = files.flatten().select_columns("audio.path")["audio.path"][:]
        self._pickled = pickle.dumps(files)
        self._kept: Path | None = None

    def __len__(self) -> int:
        return len(self.track_ids)

    def source(self, row: int) -> bytes | str:
        """Return the bytes of a file, or else its path."""
        file = _open_block(self._pickled, row // _BLOCK_ROWS)[row]["audio"]
        return file["bytes"] if file["bytes"] is not None else file["path"] or ""

    def release(self) -> None:
        """Let go of the files that `source` has opened."""
        _open_block.cache_clear()

    @cached_property
    def digests(self) -> list[str]:
        """A digest of the bytes of each file."""
        rows = tqdm(range(len(self)), desc="Comparing audio files", unit=" files", leave=False, disable=None)
        try:
            return [hash_content(self.source(row)) for row in rows]
        finally:
            self.release()

    @cached_property
    def headers(self) -> list[Header]:
        """What each file states of itself."""
        try:
            return [Header(*audio.read_header(self.source(row))) for row in range(len(self))]
        finally:
            self.release()

    @property
    def sampling_rates(self) -> set[int]:
        """The sampling rates in Hz that the files state; bad files are passed over."""
        return {header.sample_rate for header in self.headers} - {0}

    def estimate_samples(self, sample_rate: int) -> int:
        """Return the number of samples of all files at a rate in Hz."""
        return round(sum(header.seconds for header in self.headers) * sample_rate)

    @contextlib.contextmanager
    def keep_decoded(self, parent: Path, disk_share: float) -> Iterator[None]:
        """Keep what `decode` decodes in a folder within `parent` for as long as the block lasts.

        Nothing is kept where all tracks would take more than this share of the free disk.
        """
        parent.mkdir(parents=True, exist_ok=True)
        num_bytes = sum(header.seconds * header.sample_rate for header in self.headers) * np.float32().itemsize
        if num_bytes > disk_share * shutil.disk_usage(parent).free:
            yield
            return
        self._kept = Path(tempfile.mkdtemp(prefix=BUILDING_PREFIX, dir=parent))
        try:
            yield
        finally:
            shutil.rmtree(self._kept, ignore_errors=True)
            self._kept = None

    def decode(self, row: int) -> tuple[np.ndarray, int]:
        """Return (samples, sample_rate in Hz) of a whole track, float32 (T,), without a word on what was repaired.

        Raises:
            AudioError: as `audio.decode`.
        """
        kept = None if self._kept is None else self._kept / f"{row}.npy"
        if kept is not None and kept.is_file():
            os.utime(self._kept)  # else a long run's folder would seem abandoned
            return np.load(kept), self.headers[row].sample_rate
        samples, recording = audio.decode_with_remarks(self.source(row))
        if kept is not None:
            np.save(kept, samples)
        return samples, recording.sample_rate


@functools.lru_cache(maxsize=1)
def _open_block(pickled: bytes, block: int) -> datasets.Dataset:
    """Return the table behind `pickled`, with its own memory map for this block of rows.

    Where files lie in Arrow tables on disk, every page that was read stays in the process until the map is closed:
    over one map the memory would grow with the dataset.
    """
    return pickle.loads(pickled)
