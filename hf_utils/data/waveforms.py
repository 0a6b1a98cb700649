"""Clips as samples: every clip is decoded once into a cache, then a window of it is read in microseconds.

A cache folder holds the mono 16-bit samples of a list of audio files, one after the other in one file. It is named by
what it holds: the bytes of the audio files in their order, the sample rate and the decoders' versions. A changed file
or rate therefore has another name and is never served stale, and a renamed file is the same. It is built under another
name beside it and renamed when complete: whatever has a final name is whole.

The 16 bits end at full scale, and a corrupted track may exceed it. It is then lowered as a whole, and the gain is kept
beside it and undone by whoever reads: the level of every track is held. The overshoot of resampling is clipped.
"""

import errno
import hashlib
import json
import logging
import mmap
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import datasets
import huggingface_hub.constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import soundfile
import soxr

from hf_utils import audio
from hf_utils.audio import from_pcm16
from hf_utils.data.track_files import BUILDING_PREFIX, TrackFiles
from hf_utils.errors import UserError
from hf_utils.versions import installed_versions

logger = logging.getLogger(__name__)

# Part of the key: raise it when the samples, or what counts as a problem, come out differently.
# 2: sound is checked and repaired by `sound_check`; corrupted tracks keep their level.
WAVEFORMS_VERSION = 2
BYTES_PER_SAMPLE = 2
PCM_NAME = "samples.pcm16"
_INDEX_NAME = "index.parquet"
INDEX_FEATURES = datasets.Features(
    {
        "sha256": datasets.Value("string"),
        "num_samples": datasets.Value("int64"),
        "problem": datasets.Value("string"),
        "remarks": datasets.Value("string"),
        "pcm_gain": datasets.Value("float64"),
    }
)
_PLACE_FEATURES = datasets.Features(
    {"file": datasets.Value("string"), "pcm_path": datasets.Value("string"), "pcm_offset": datasets.Value("int64")}
)
# By these columns a data set says by what its writer lowered whole clips; as augment_dataset.py does.
_LEVEL_COLUMNS = ("gain", "clipped_share")
_READ_BYTES = 1 << 20

# A build writes all the time; one that has not written for this long was killed.
_ABANDONED_SECONDS = 24 * 3600


class TrackCorruption(Protocol):
    """What a whole track, float32 (T,) at its native rate in Hz, may go through before it is resampled.

    Attributes:
        fingerprint: all that its result depends on but the track: it is part of the cache's name.
    """

    fingerprint: str

    def __call__(self, samples: np.ndarray, sample_rate: int, track_id: str):
        """Return an object with the corrupted `samples`, float32 (T,), within full scale.

        Its `gain` is what they were lowered by for that, and `fault` what is to be remarked on, or None.
        """


def decode_clips(
    clips: datasets.Dataset,
    sample_rate: int,
    *,
    cache_dir: str | os.PathLike | None = None,
    num_proc: int = 1,
    corruption: TrackCorruption | None = None,
    files: TrackFiles | None = None,
) -> datasets.Dataset:
    """Return the clip table without `audio`, with where each clip's samples lie; decodes only what is not cached.

    Added columns:
        sha256: of the samples at the file's own rate, as `audio.hash_samples`; null for a bad file.
        num_samples: at `sample_rate`; 0 for a bad file.
        problem: why the file is bad (see `audio.decode`); null for a good one.
        remarks: what was found and repaired in a good one, parted by "; "; null where that is nothing.
        file: its path, or the name that it has inside a Parquet file; null where it has none.
        pcm_path, pcm_offset: the file of 16-bit samples, and the clip's first byte in it, for `read_samples`.
        pcm_gain: by what those samples were lowered; `read_samples` undoes it.

    Args:
        clips: from `load_clips`.
        sample_rate: Hz.
        cache_dir: default: that of `find_cache`.
        num_proc: processes that decode. The result does not depend on it.
        corruption: applied to every clip at its own rate, as augment_dataset.py does: then the samples are those of
            its files.
        files: those of the clips, for whoever decodes them more than once.

    Raises:
        UserError: there are no clips, or the cache folder cannot be written, or its disk is too small.
    """
    files = files or TrackFiles(clips)
    folder, index = _find_index(files, sample_rate, cache_dir, num_proc, corruption)
    num_samples = np.array(index["num_samples"], dtype=np.int64)
    columns = {
        **index,
        "pcm_gain": [own * kept for own, kept in zip(index["pcm_gain"], _read_gains(clips), strict=True)],
        "file": files.paths,
        "pcm_path": [str(folder / PCM_NAME)] * len(clips),
        "pcm_offset": (np.cumsum(num_samples) - num_samples) * BYTES_PER_SAMPLE,
    }
    others = clips.remove_columns([name for name in ("audio", *columns) if name in clips.column_names])
    features = datasets.Features({**others.features, **INDEX_FEATURES, **_PLACE_FEATURES})
    return datasets.Dataset.from_dict({**others.with_format(None)[:], **columns}, features)


def check_clips(
    clips: datasets.Dataset, *, cache_dir: str | os.PathLike | None = None, num_proc: int = 1
) -> datasets.Dataset:
    """Return the clip table with the columns `problem`, `remarks` and `file` of `decode_clips`, without decoding.

    Every file is read to its end, and what was found is kept in the cache, but no samples are.

    Raises:
        UserError: there are no clips, or the cache folder cannot be written.
    """
    files = TrackFiles(clips)
    _, index = _find_index(files, None, cache_dir, num_proc)
    found = {"problem": index["problem"], "remarks": index["remarks"], "file": files.paths}
    features = datasets.Features({name: datasets.Value("string") for name in found})
    others = clips.remove_columns([name for name in found if name in clips.column_names])
    return datasets.concatenate_datasets([others, datasets.Dataset.from_dict(found, features)], axis=1)


def _find_index(
    files: TrackFiles,
    sample_rate: int | None,
    cache_dir: str | os.PathLike | None,
    num_proc: int,
    corruption: TrackCorruption | None = None,
) -> tuple[Path, dict[str, list]]:
    """Return the cache folder of `files`, built if it is not there, and its index. Raises UserError as its callers."""
    if not len(files):
        raise UserError("There are no clips to decode.")
    cache_dir = find_cache(cache_dir)
    folder = cache_dir / make_key(files, sample_rate, corruption)
    try:
        return folder, read_index(folder) or build_index(files, sample_rate, folder, num_proc, corruption)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _explain_full_disk(files, sample_rate, cache_dir, num_proc) from error
        raise UserError(f"Cannot use {cache_dir} for decoded audio: {error}. Choose another folder.") from error


def _read_gains(clips: datasets.Dataset) -> list[float]:
    """Return by what the clips' writer has lowered them, 1.0 where nothing says so."""
    if not set(_LEVEL_COLUMNS) <= set(clips.column_names):
        return [1.0] * len(clips)
    return [1.0 if gain is None or not 0 < gain <= 1 else float(gain) for gain in clips["gain"]]


def _explain_full_disk(files: TrackFiles, sample_rate: int | None, cache_dir: Path, num_proc: int) -> UserError:
    needed, free = estimate_bytes(files, sample_rate, num_proc), shutil.disk_usage(cache_dir).free
    return UserError(
        f"The disk of {cache_dir} is too small for the decoded audio: about {needed / 1e9:.2f} GB are needed, "
        f"{free / 1e9:.2f} GB are free. Free some, or choose a cache folder on another disk."
    )


def read_samples(clip: Mapping, start: int = 0, length: int | None = None) -> np.ndarray:
    """Return samples [start, start + length) of a decoded clip as float32 (T,); fewer where the clip ends before.

    The file is mapped, copied from and unmapped in every call: nothing stays open that would have to be sent to a
    data-loader worker, and no pages of clips read earlier stay in the process. 10 s take about 0.1 ms.

    Args:
        clip: a row of `decode_clips`: `pcm_path`, `pcm_offset`, `pcm_gain` and `num_samples` are used.
        start: in samples.
        length: in samples. Default: to the end.

    Raises:
        ValueError: `start` lies outside the clip; a bad file has no samples at all.
    """
    num_samples = clip["num_samples"]
    if not 0 <= start < num_samples:
        raise ValueError(f"expected a start within the clip's {num_samples} samples, found {start}")
    count = num_samples - start if length is None else min(length, num_samples - start)
    first_byte = clip["pcm_offset"] + start * BYTES_PER_SAMPLE
    lead = first_byte % mmap.ALLOCATIONGRANULARITY  # a map can begin only at such a boundary
    with (
        open(clip["pcm_path"], "rb") as file,
        mmap.mmap(
            file.fileno(), lead + count * BYTES_PER_SAMPLE, access=mmap.ACCESS_READ, offset=first_byte - lead
        ) as mapped,
    ):
        # The array must be gone when the map is closed: from_pcm16 copies, and no name holds the view.
        samples = from_pcm16(np.frombuffer(mapped, "<i2", count, lead))
    return samples if clip["pcm_gain"] == 1 else samples / np.float32(clip["pcm_gain"])


def find_cache(cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the folder of decoded audio: `cache_dir`, or `genre_waveforms` in the Hugging Face cache."""
    return Path(cache_dir or Path(huggingface_hub.constants.HF_HOME, "genre_waveforms")).expanduser().absolute()


def make_key(files: TrackFiles, sample_rate: int | None, corruption: TrackCorruption | None = None) -> str:
    """Return the name of what these files decode to: a hash of their bytes, order, rate, decoders and corruption."""
    decoders = f"{soundfile.__libsndfile_version__} {installed_versions(['av'])}"
    versions = f"{WAVEFORMS_VERSION} {soxr.__version__} {decoders}"
    key = hashlib.sha256(f"{versions} {sample_rate}".encode())
    if corruption is not None:
        key.update(json.dumps([corruption.fingerprint, files.track_ids]).encode())
    for digest in files.digests:
        key.update(f"\n{digest}".encode())
    return key.hexdigest()


def read_index(folder: Path) -> dict[str, list] | None:
    """Return the columns of `INDEX_FEATURES`, or None where the folder is missing or was damaged."""
    try:
        index = pyarrow.parquet.read_table(folder / _INDEX_NAME).to_pydict()
        expected_bytes = sum(index["num_samples"]) * BYTES_PER_SAMPLE
        return index if (folder / PCM_NAME).stat().st_size == expected_bytes else None
    except (OSError, pa.ArrowInvalid):
        return None


def estimate_bytes(files: TrackFiles, sample_rate: int | None, num_proc: int) -> int:
    """Return the disk space that building takes at its peak, from the files' headers."""
    if sample_rate is None:
        return 0
    num_bytes = files.estimate_samples(sample_rate) * BYTES_PER_SAMPLE
    # Every process writes its own part, and each part is there twice while it is joined to the first.
    return num_bytes + (num_bytes // num_proc if num_proc > 1 else 0)


def build_index(
    files: TrackFiles,
    sample_rate: int | None,
    folder: Path,
    num_proc: int,
    corruption: TrackCorruption | None = None,
) -> dict[str, list]:
    """Decode `files` into `folder` and return its index. Of several processes that do this the first one wins.

    No `sample_rate` only checks them: no samples are kept.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    if estimate_bytes(files, sample_rate, num_proc) > shutil.disk_usage(folder.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    building = folder.parent / f"{BUILDING_PREFIX}{folder.name[:16]}-{uuid.uuid4().hex}"
    building.mkdir()
    try:
        decoded = datasets.Dataset.from_dict(
            {"row": range(len(files))}
        ).map(
            _decode_row,
            input_columns="row",
            with_rank=True,
            fn_kwargs=dict(files=files, sample_rate=sample_rate, folder=str(building), corruption=corruption),
            remove_columns="row",
            features=INDEX_FEATURES,
            num_proc=min(num_proc, len(files)) if num_proc > 1 else None,
            keep_in_memory=True,  # only these small columns: the samples go to files
            load_from_cache_file=False,
            new_fingerprint=folder.name[:32],
            desc="Checking audio files" if sample_rate is None else f"Decoding audio at {sample_rate} Hz",
        )
        index = pa.table(decoded.with_format("arrow")[:]).replace_schema_metadata(None)
        _join_parts(building)
        pyarrow.parquet.write_table(index, building / _INDEX_NAME)
        assert read_index(building) is not None, "the samples written are not those counted"
        _publish(building, folder)
    finally:
        files.release()
        shutil.rmtree(building, ignore_errors=True)
    return index.to_pydict()


def _decode_row(
    row: int,
    rank: int | None,
    *,
    files: TrackFiles,
    sample_rate: int | None,
    folder: str,
    corruption: TrackCorruption | None,
) -> dict:
    """Append a file's samples to its process's part, and return its row of the index."""
    none = {"sha256": None, "num_samples": 0, "problem": None, "remarks": None, "pcm_gain": 1.0}
    try:
        if sample_rate is None:
            return {**none, "remarks": "; ".join(audio.inspect(files.source(row)).remarks) or None}
        if corruption is None:
            samples, recording = audio.decode_with_remarks(files.source(row))
            native_rate, remarks, gain = recording.sample_rate, recording.remarks, 1.0
        else:
            samples, native_rate = files.decode(row)
    except audio.AudioError as error:
        return {**none, "problem": str(error)}
    if corruption is not None:
        made = corruption(samples, native_rate, files.track_ids[row])
        samples = audio.from_pcm16(audio.to_pcm16(made.samples))  # what a file of it would hold
        remarks, gain = [made.fault] if made.fault else [], made.gain
    pcm = audio.to_pcm16(audio.resample(samples, native_rate, sample_rate)).astype("<i2")
    with open(Path(folder, f"part-{rank or 0:05d}"), "ab") as part:
        part.write(pcm.tobytes())
    found = {"problem": None, "remarks": "; ".join(remarks) or None, "pcm_gain": gain}
    return {"sha256": audio.hash_samples(samples), "num_samples": pcm.size, **found}


def _join_parts(building: Path) -> None:
    """Join the parts in the order of the processes, which took contiguous runs of the clips in that order."""
    parts = sorted(building.glob("part-*"))
    joined = building / PCM_NAME
    if parts:
        os.replace(parts[0], joined)
    with open(joined, "ab") as end:
        for part in parts[1:]:
            with open(part, "rb") as samples:
                shutil.copyfileobj(samples, end, _READ_BYTES)
            part.unlink()


def _publish(building: Path, folder: Path) -> None:
    try:
        os.replace(building, folder)
    except OSError:
        # Either another process was first, and its folder is as good, or what is there was damaged.
        if read_index(folder) is None:
            shutil.rmtree(folder)
            os.replace(building, folder)


def _remove_abandoned(cache_dir: Path) -> None:
    for building in cache_dir.glob(f"{BUILDING_PREFIX}*"):
        try:
            last_written = max(path.stat().st_mtime for path in (building, *building.iterdir()))
        except FileNotFoundError:  # finished meanwhile by the process that builds it
            continue
        if time.time() - last_written > _ABANDONED_SECONDS:
            shutil.rmtree(building, ignore_errors=True)
