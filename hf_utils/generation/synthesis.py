"""Making one batch of synthetic clips: generated, finished, passed through the gates. B clips, T samples.

The seed rule stands in `recipes.py`.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from hf_utils import audio
from hf_utils.disclosure import show_source
from hf_utils.generation import clip_gates
from hf_utils.generation.generators import generate_batch
from hf_utils.generation.recipes import Recipe
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
            samples, gain_db = clip_gates.set_loudness(samples, recipe.rms_db)
            made[position] = clip | provenance | self._encode(clip["track_id"], samples)
            made[position] |= {"batch_row": position, "gain_db": gain_db}
        known = [*kept, *made.values()]
        repeats = clip_gates.find_duplicates([row["sha256"] for row in known], [row["fingerprint"] for row in known])
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
        return samples, clip_gates.find_fault(samples, recipe.num_samples, recipe.sample_rate)

    def _encode(self, track_id: str, samples: np.ndarray) -> dict:
        return {
            "audio": {"bytes": audio.encode_flac(samples, self._recipe.sample_rate), "path": f"{track_id}.flac"},
            "sha256": audio.hash_samples(samples),
            "fingerprint": clip_gates.fingerprint(samples),
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
