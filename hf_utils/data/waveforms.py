"""Clips as samples: every clip is decoded once, then a window of it is read in microseconds."""

import errno
import functools
import logging
import mmap
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import datasets
import huggingface_hub.constants
import numpy as np

from hf_utils.audio import from_pcm16
from hf_utils.augmentation.corruptions import Corruption
from hf_utils.data.waveform_cache import (
    BYTES_PER_SAMPLE,
    INDEX_FEATURES,
    PCM_NAME,
    build_index,
    estimate_bytes,
    make_key,
    read_index,
    select_files,
)
from hf_utils.errors import UserError

logger = logging.getLogger(__name__)

_PLACE_FEATURES = datasets.Features({"pcm_path": datasets.Value("string"), "pcm_offset": datasets.Value("int64")})


def find_cache(cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the folder of decoded audio: `cache_dir`, or `genre_waveforms` in the Hugging Face cache."""
    return Path(cache_dir or Path(huggingface_hub.constants.HF_HOME, "genre_waveforms")).expanduser().absolute()


def decode_clips(
    clips: datasets.Dataset,
    sample_rate: int,
    *,
    cache_dir: str | os.PathLike | None = None,
    num_proc: int = 1,
    corruption: Corruption | None = None,
) -> datasets.Dataset:
    """Return the clip table without `audio`, with where each clip's samples lie; decodes only what is not cached.

    Added columns:
        sha256: of the samples at the file's own rate, as `audio.hash_samples`; null for a bad file.
        num_samples: at `sample_rate`; 0 for a bad file.
        problem: why the file is bad (see `audio.decode`); null for a good one.
        pcm_path, pcm_offset: the file of 16-bit samples, and the clip's first byte in it, for `read_samples`.

    Args:
        clips: from `load_clips`.
        sample_rate: Hz.
        cache_dir: default: that of `find_cache`.
        num_proc: processes that decode. The result does not depend on it.
        corruption: applied to every clip at its own rate, as augment_dataset.py does: then the samples are those of
            its files.

    Raises:
        UserError: there are no clips, or the cache folder cannot be written, or its disk is too small.
    """
    if not len(clips):
        raise UserError("There are no clips to decode.")
    files = select_files(clips)
    cache_dir = find_cache(cache_dir)
    folder = cache_dir / make_key(files, sample_rate, corruption)
    try:
        index = read_index(folder) or build_index(files, sample_rate, folder, num_proc, corruption)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _explain_full_disk(files, sample_rate, cache_dir, num_proc) from error
        raise UserError(f"Cannot use {cache_dir} for decoded audio: {error}. Choose another folder.") from error
    num_samples = np.array(index["num_samples"], dtype=np.int64)
    columns = {
        **index,
        "pcm_path": [str(folder / PCM_NAME)] * len(clips),
        "pcm_offset": (np.cumsum(num_samples) - num_samples) * BYTES_PER_SAMPLE,
    }
    others = clips.remove_columns([name for name in ("audio", *columns) if name in clips.column_names])
    features = datasets.Features({**others.features, **INDEX_FEATURES, **_PLACE_FEATURES})
    return datasets.Dataset.from_dict({**others.with_format(None)[:], **columns}, features)


def _explain_full_disk(files: datasets.Dataset, sample_rate: int, cache_dir: Path, num_proc: int) -> UserError:
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
        clip: a row of `decode_clips`: `pcm_path`, `pcm_offset` and `num_samples` are used.
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
        return from_pcm16(np.frombuffer(mapped, "<i2", count, lead))


def drop_problems(decoded: datasets.Dataset, on_bad_audio: str) -> datasets.Dataset:
    """Return the clips without a problem, all others listed by name with the reason.

    Args:
        decoded: from `decode_clips`.
        on_bad_audio: `error` stops at any, `skip` logs the list and goes on.

    Raises:
        UserError: under `error`, if there is a bad clip; under `skip`, if no good one is left.
    """
    problems = list(decoded["problem"])
    bad = [row for row, problem in enumerate(problems) if problem]
    if not bad:
        return decoded
    genres, clips = decoded.features["label"], decoded.select(bad)
    listing = "\n".join(f"  {c['track_id']}: {c['problem']} ({genres.int2str(c['label'])})" for c in clips)
    message = f"{len(bad)} of {len(decoded)} audio files cannot be used:\n{listing}"
    if on_bad_audio == "error":
        raise UserError(f"{message}\nRepair or remove them, or go on without them by --on_bad_audio skip.")
    if len(bad) == len(decoded):
        raise UserError(f"{message}\nNo clip is left.")
    _warn_once(f"{message}\nThey are left out.")
    return decoded.select([row for row, problem in enumerate(problems) if not problem])


@functools.cache
def _warn_once(message: str) -> None:
    """Every stage of a run, and every trial of a search, decodes the same clips."""
    logger.warning("%s", message)
