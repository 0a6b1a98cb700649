"""A dataset folder of synthetic clips: its batches, generated and passed through the gates, and its card.

B clips, C channels, T samples. `plan` has the seed rule.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from hf_utils import audio
from hf_utils.data.shards import Shards
from hf_utils.disclosure import show_source
from hf_utils.generation.clip_gates import find_duplicates, find_fault, fingerprint, set_loudness
from hf_utils.generation.generators import generate_batch
from hf_utils.generation.plan import Recipe, clip_features
from hf_utils.generation.scoring import read_scores
from hf_utils.generation.synthetic_card import describe_dataset
from hf_utils.seeding import derive_seed


class BatchError(RuntimeError):
    """A batch with clips that no attempt brought through the gates."""


class BatchMaker:
    """Makes batches of a recipe with a loaded generator."""

    def __init__(self, recipe: Recipe, generator, versions: Mapping[str, str]):
        self._recipe = recipe
        self._generator = generator
        self._versions = json.dumps(dict(versions))

    def make(self, batch: int) -> list[dict]:
        """Return the rows of a batch.

        Raises:
            BatchError: a clip was rejected `max_attempts` times.
            UserError: out of memory.
        """
        size = len(self._recipe.batch_indices(batch))
        return self._complete(batch, [None] * size, [[] for _ in range(size)], first_attempt=0)

    def replace(self, batch: int, rows: Sequence[dict], faults: Mapping[int, str]) -> list[dict]:
        """Return the B finished `rows` of a batch with those at the positions in `faults` made anew, as by `make`."""
        rejected = [json.loads(row["rejected"] or "[]") for row in rows]
        for position, reason in faults.items():
            rejected[position].append(reason)
        kept = [None if position in faults else row for position, row in enumerate(rows)]
        return self._complete(batch, kept, rejected, first_attempt=1 + max(row["attempt"] for row in rows))

    def _complete(self, batch: int, rows: list[dict | None], rejected: list[list[str]], first_attempt: int):
        for attempt in range(first_attempt, self._recipe.max_attempts):
            missing = [position for position, row in enumerate(rows) if row is None]
            made, faults = self._attempt(batch, missing, attempt, [row for row in rows if row is not None])
            for position, reason in faults.items():
                rejected[position].append(reason)
            for position, row in made.items():
                rows[position] = row | {"rejected": json.dumps(rejected[position]) if rejected[position] else None}
            if None not in rows:
                return rows
        raise BatchError(self._explain(batch, [p for p, row in enumerate(rows) if row is None], rejected))

    def _explain(self, batch: int, missing: Sequence[int], rejected: Sequence[Sequence[str]]) -> str:
        first = self._recipe.batch_indices(batch)[0]
        clips = (self._recipe.describe_clip(first + position) for position in missing)
        lines = [
            f"  {clip['track_id']} ({', '.join(rejected[position])}): {clip['prompt']}"
            for clip, position in zip(clips, missing, strict=True)
        ]
        return f"Batch {batch}: no sound clip in {self._recipe.max_attempts} attempts:\n" + "\n".join(lines)

    def _attempt(self, batch: int, positions: Sequence[int], attempt: int, kept: Sequence[Mapping]):
        """Return ({position: row}, {position: fault}) of one batch of generated audio."""
        recipe = self._recipe
        seed = derive_seed(recipe.seed, "batch", batch, attempt)
        clips = [recipe.describe_clip(recipe.batch_indices(batch)[position]) for position in positions]
        rate = self._generator.sample_rate
        continued = recipe.parents.read(clips) if recipe.parents else None
        heard, dtype = generate_batch(self._generator, [clip["prompt"] for clip in clips], seed, continued)
        provenance = self._provenance(seed, batch, attempt, dtype)
        made, faults = {}, {}
        for position, clip, channels in zip(positions, clips, heard, strict=True):
            samples, fault = self._finish(channels, rate)
            if fault:
                faults[position] = fault
                continue
            samples, gain_db = set_loudness(samples, recipe.rms_db)
            made[position] = clip | provenance | self._encode(clip["track_id"], samples)
            made[position] |= {"batch_row": position, "gain_db": gain_db}
        known = [*kept, *made.values()]
        repeats = find_duplicates([row["sha256"] for row in known], [row["fingerprint"] for row in known])
        order = [*range(len(kept)), *made]
        for index, reason in repeats.items():
            faults[order[index]] = reason
            del made[order[index]]
        return made, faults

    def _finish(self, channels: np.ndarray, rate: int) -> tuple[np.ndarray, str | None]:
        """Return a clip (T,) of the wanted rate and length from (C, T), without its mean, and its fault."""
        recipe = self._recipe
        samples = channels.mean(axis=0)[: recipe.sampling.native_samples(rate)]
        if np.isfinite(samples).all():
            samples = audio.resample(samples - samples.mean(), rate, recipe.sample_rate)[: recipe.num_samples]
        return samples, find_fault(samples, recipe.num_samples, recipe.sample_rate)

    def _encode(self, track_id: str, samples: np.ndarray) -> dict:
        return {
            "audio": {"bytes": audio.encode_flac(samples, self._recipe.sample_rate), "path": f"{track_id}.flac"},
            "sha256": audio.hash_samples(samples),
            "fingerprint": fingerprint(samples),
        }

    def _provenance(self, seed: int, batch: int, attempt: int, dtype: str) -> dict:
        recipe, sampling = self._recipe, self._recipe.sampling
        return {
            "origin": "synthetic",
            "model": show_source(recipe.checkpoint.name),
            "model_revision": recipe.checkpoint.revision,
            "seed": seed,
            "batch": batch,
            "batch_size": recipe.batch_size,
            "attempt": attempt,
            "guidance_scale": sampling.guidance_scale,
            "top_k": sampling.top_k,
            "temperature": sampling.temperature,
            "tokens": sampling.tokens,
            "inference_steps": sampling.inference_steps,
            "dtype": dtype,
            "source_rate": self._generator.sample_rate,
            "prompt_seconds": sampling.prompt_seconds or None,
            "versions": self._versions,
        }


def write_batches(
    shards: Shards, recipe: Recipe, maker: BatchMaker, batches: Sequence[int], *, show_progress: bool
) -> None:
    """Write the shards of `batches`. One that fails keeps none of the others back.

    Raises:
        BatchError: after all others were written, for those that failed.
        UserError: out of memory, or the disk is full.
    """
    features = clip_features(recipe.genres)
    failures, clips, started = [], 0, time.monotonic()
    with tqdm(
        total=sum(len(recipe.batch_indices(batch)) for batch in batches),
        desc="Generating",
        unit="clip",
        disable=None if show_progress else True,
    ) as bar:
        for batch in batches:
            if shards.paths[batch].exists():
                continue  # made by another process meanwhile
            try:
                rows = maker.make(batch)
            except BatchError as error:
                failures.append(str(error))
                continue
            shards.write(batch, rows, features)
            clips += len(rows)
            minutes = (time.monotonic() - started) / 60
            speed = clips * recipe.sampling.clip_seconds / 60 / minutes
            bar.set_postfix_str(f"{clips / minutes:.3g} clips/min, {speed:.3g}x real time")
            bar.update(len(rows))
    if failures:
        raise BatchError("\n".join(failures))


def replace_duplicates(shards: Shards, recipe: Recipe, load_maker: Callable[[], BatchMaker]) -> int:
    """Make clips anew that repeat one of an earlier batch; return their number. Without any, nothing is loaded.

    All batches must be there. What comes out depends only on their contents, so it does not matter which process does
    it, nor whether two do.

    Raises:
        BatchError: a clip stays a duplicate.
    """
    replaced = 0
    while True:
        table = shards.read(["sha256", "fingerprint"])
        repeats = find_duplicates(table["sha256"].to_pylist(), table["fingerprint"].to_pylist())
        by_batch: dict[int, dict[int, str]] = {}
        for index, reason in repeats.items():
            batch, position = divmod(index, recipe.batch_size)
            by_batch.setdefault(batch, {})[position] = reason
        if not by_batch:
            return replaced
        for batch, faults in by_batch.items():
            rows = shards.read_shard(batch).to_pylist()
            shards.write(batch, load_maker().replace(batch, rows, faults), clip_features(recipe.genres))
            replaced += len(faults)


def write_card(shards: Shards, recipe: Recipe, source: Mapping[str, Any], name: str | None) -> None:
    """Check the folder and write its card, which finishes it.

    Args:
        source: options that give the real clips to train on beside it, and their split.
        name: what the card tells `load_dataset` to take; None for the folder.
    """
    rows = shards.read(["label", "prompt", "rejected", "dtype"]).to_pylist()
    config = json.loads((shards.folder / "config.json").read_text(encoding="utf-8"))
    config |= read_scores(shards)
    shards.finish(describe_dataset(recipe, rows, config, source, name or show_source(str(shards.folder))))
