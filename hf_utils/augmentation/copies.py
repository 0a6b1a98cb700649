"""Which copies a dataset of augmented clips consists of, in which shard each is, and how the shards are made.

A pool of processes makes them. Which process makes which, and when, changes no byte.
"""

import dataclasses
import json
import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from multiprocessing.connection import wait

import datasets
import numpy as np
from tqdm.auto import tqdm

from hf_utils.audio import AudioError, decode_with_remarks, encode_flac, hash_samples, resample
from hf_utils.augmentation.corruptions import Corruption
from hf_utils.augmentation.pipeline import Augmentation, AugmentedClip, bring_to_full_scale
from hf_utils.data.shards import Shards
from hf_utils.errors import UserError
from hf_utils.files import file_stem
from hf_utils.seeding import derive_seed

PROVENANCE = datasets.Features(
    {
        "augmentation": datasets.Value("string"),
        "copy": datasets.Value("int32"),
        "seed": datasets.Value("int64"),
        "transforms": datasets.Value("string"),
        "snr_db": datasets.Value("float32"),
        "measured_snr_db": datasets.Value("float32"),
        "gain": datasets.Value("float32"),
        "clipped_share": datasets.Value("float32"),
    }
)

# Columns of a clip table that belong to one run's split, and not to the clip.
_SPLIT_COLUMNS = ("split", "split_protocol")


@dataclasses.dataclass(frozen=True)
class Copy:
    """One way of making a clip from a real one: the `number`th copy by a chain of transforms, or the clip as it is.

    Attributes:
        name: of the transforms; None for the clip as it is.
        seed: of the run; None for a corruption, which has its own.
    """

    name: str | None
    transform: Augmentation | Corruption | None = None
    seed: int | None = None
    number: int = 0

    def apply(self, samples: np.ndarray, sample_rate: int, track_id: str) -> tuple[AugmentedClip, int | None]:
        """Return float32 samples (T,) of a track after the transforms, and the seed.

        Raises:
            UserError: the copy would be silent, without its noise or the same as the track.
        """
        if isinstance(self.transform, Corruption):
            return self.transform(samples, sample_rate, track_id), self.transform.seed_of(track_id)
        if self.transform is None:
            return bring_to_full_scale(samples, []), None
        seed = derive_seed(self.seed, track_id, self.number)
        clip = self.transform(samples, sample_rate, seed, must_change=True)
        if clip.fault is not None:
            raise UserError(f"{self.name}: a copy of {track_id} comes out {clip.fault}: change the transforms.")
        return clip, seed

    def name_split(self, split: str) -> str:
        """Return the split of the copies: every corruption has its own."""
        return f"{split}_{self.name}" if isinstance(self.transform, Corruption) else split


class CopyPlan:
    """All copies of a clip table, cut into shards.

    Attributes:
        clips: the clips to copy.
        copies: the ways of copying.
        shards_per_split: number of shards of each split, for `open_shards`.
        shards: (row of `clips`, index into `copies`) of every clip, shard by shard.
        features: the columns of the new dataset.
    """

    def __init__(
        self, clips: datasets.Dataset, splits: Sequence[str], copies: Sequence[Copy], *, shard_size: int,
        sampling_rate: int | None,
    ):  # fmt: skip
        """Plan copies of the clips in `splits`, `shard_size` to a shard, at `sampling_rate` in Hz or their own."""
        self.clips, self.copies, self._sampling_rate = clips, list(copies), sampling_rate
        members: dict[str, list[tuple[int, int]]] = {}
        clip_splits = clips["split"][:]
        for split in splits:
            rows = [row for row, clip_split in enumerate(clip_splits) if clip_split == split]
            # Clip by clip, so that all copies of one are made after one decoding.
            for row in rows:
                for index, copy in enumerate(self.copies):
                    members.setdefault(copy.name_split(split), []).append((row, index))
        self.shards = [
            entries[start : start + shard_size]
            for entries in members.values()
            for start in range(0, len(entries), shard_size)
        ]
        self.shards_per_split = {name: -(-len(entries) // shard_size) for name, entries in members.items()}
        own = {"audio", *_SPLIT_COLUMNS, *PROVENANCE}
        carried = {name: feature for name, feature in clips.features.items() if name not in own}
        carried["parent_sha256"] = datasets.Value("string")
        if any(isinstance(copy.transform, Corruption) for copy in copies):
            # The names of its files say which corruption a clip has; of what split it is, this column says.
            carried["split"] = datasets.Value("string")
        self.features = datasets.Features({"audio": datasets.Audio(), **carried, **PROVENANCE})

    def list_clips(self) -> datasets.Dataset:
        """Return the rows of `clips` that are copied, each once, in their order."""
        return self.clips.select(sorted({row for shard in self.shards for row, _ in shard}))

    def make_rows(self, index: int) -> Iterator[dict]:
        """Yield the rows of a shard. Raises UserError for a clip that cannot be used."""
        for row, entries in groupby(self.shards[index], key=lambda entry: entry[0]):
            clip = self.clips[row]
            samples, sample_rate, digest = self.read_clip(clip)
            # A copy of a copy has the real track for its parent; of a synthetic clip, none.
            is_real = clip["origin"] == "real"
            parent = {
                "parent_id": clip["track_id"] if is_real else clip["parent_id"],
                "parent_sha256": digest if is_real else clip.get("parent_sha256"),
            }
            for _, copy_index in entries:
                yield self._make_row(clip, self.copies[copy_index], samples, sample_rate, parent)

    def read_clip(self, clip: Mapping) -> tuple[np.ndarray, int, str]:
        """Return the samples of a row of `clips`, float32 (T,), their rate in Hz, and a digest of the file.

        Its copies share these; by the digest, of the samples at the file's own rate, they are known as copies.

        Raises:
            UserError: the clip cannot be used.
        """
        try:
            samples, recording = decode_with_remarks(clip["audio"]["bytes"] or clip["audio"]["path"])
        except AudioError as error:
            raise UserError(f"{clip['audio']['path'] or clip['track_id']} cannot be used: {error}") from error
        wanted = self._sampling_rate or recording.sample_rate
        return resample(samples, recording.sample_rate, wanted), wanted, hash_samples(samples)

    def _make_row(self, clip: Mapping, copy: Copy, samples: np.ndarray, sample_rate: int, parent: Mapping) -> dict:
        made, seed = copy.apply(samples, sample_rate, clip["track_id"])
        row = {name: clip.get(name) for name in self.features}
        if copy.name is not None:
            track_id = f"{clip['track_id']}+{copy.name}-{copy.number}"
            row.update(track_id=track_id, origin="noisy", **parent)
        audio = {"bytes": encode_flac(made.samples, sample_rate), "path": f"{file_stem(row['track_id'])}.flac"}
        provenance = {
            "augmentation": copy.name,
            "copy": copy.number if copy.name is not None else None,
            "seed": seed,
            "transforms": json.dumps(made.transforms, sort_keys=True),
            "snr_db": made.snr_db,
            "measured_snr_db": made.measured_snr_db,
            "gain": made.gain,
            "clipped_share": made.clipped_share,
        }
        return {**row, "audio": audio, **provenance}


# What a worker process works on; set once, when it starts.
_work: tuple[CopyPlan, Shards] | None = None


def write_shards(plan: CopyPlan, shards: Shards, indices: Sequence[int], *, num_proc: int) -> None:
    """Make the shards `indices`, with a progress bar in clips. Finished ones stay, whatever happens to the others.

    Raises:
        UserError: no space or right to write, a process died, or a copy cannot be made.
    """
    total = sum(len(plan.shards[i]) for i in indices)
    with tqdm(total=total, desc="Copying", unit="clip", mininterval=1, disable=None) as bar:
        for index in _run(plan, shards, indices, num_proc):
            bar.update(len(plan.shards[index]))


def _run(plan: CopyPlan, shards: Shards, indices: Sequence[int], num_proc: int) -> Iterator[int]:
    """Yield the shards as they are written."""
    num_proc = min(num_proc, len(indices))
    if num_proc <= 1:
        yield from (_write_shard(plan, shards, index) for index in indices)
        return
    pool = ProcessPoolExecutor(num_proc, initializer=_start_worker, initargs=(plan, shards))
    try:
        for future in as_completed([pool.submit(_write_shard_of_worker, index) for index in indices]):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process was killed, perhaps for lack of memory. Finished shards are kept: run the same command again, "
            "with a smaller --num_proc if memory is short."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(*work) -> None:
    global _work
    _work = work
    # A worker whose parent was killed would wait for ever for the next shard.
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _write_shard_of_worker(index: int) -> int:
    return _write_shard(*_work, index)


def _write_shard(plan: CopyPlan, shards: Shards, index: int) -> int:
    shards.write(index, plan.make_rows(index), plan.features)
    return index
