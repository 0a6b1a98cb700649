"""Making one batch of synthetic clips: generated, finished, passed through the gates. B clips, T samples.

The seed rule stands in `recipes.py`.

What a synthetic clip must pass before it is kept, its loudness, and duplicates. T samples, N clips, B bits.

Gates only catch what is broken; they judge no music. Whether a clip sounds like its genre is for the scores.

A dataset folder of synthetic clips: its missing batches, duplicates between batches, and its card.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from hf_utils import audio
from hf_utils.audio import rms_db
from hf_utils.data.shards import Shards
from hf_utils.disclosure import show_source
from hf_utils.generation.generators import generate_batch
from hf_utils.generation.plan import Recipe, clip_features
from hf_utils.generation.scoring import read_scores
from hf_utils.generation.synthetic_card import describe_dataset
from hf_utils.seeding import derive_seed

MIN_RMS_DB = -50.0

# A frame this quiet counts as silent. 50 ms, so that a rest between two notes is not a silence.
SILENT_FRAME_DB = -60.0
FRAME_SECONDS = 0.05

# The longest silence: longer ones are endings or failures. In short clips no more than half of the clip.
MAX_SILENCE_SECONDS = 3.0

# The share of samples at full scale. Loud masters have some; a square wave of overload has many.
FULL_SCALE = 0.999
MAX_CLIPPED_SHARE = 0.01

# Highest peak after the loudness is set.
PEAK_LIMIT = 0.999

# Share of bits that may differ between two recordings that count as one. Unrelated ones differ in half of their 2,048
# bits, Haitsma and Kalker (2002) take 0.35; here a wrong alarm costs more than a miss.
NEAR_DUPLICATE_SHARE = 0.2
_FINGERPRINT_FRAMES, _FINGERPRINT_BANDS = 65, 33


def find_fault(samples: np.ndarray, num_samples: int, sample_rate: int) -> str | None:
    """Return why a mono clip (T,) that should have `num_samples` is rejected, or None if it is sound."""
    if not np.isfinite(samples).all():
        return "not finite"
    if samples.size != num_samples:
        return "wrong length"
    if rms_db(samples) <= MIN_RMS_DB:
        return "silent"
    if longest_silence(samples, sample_rate) > min(MAX_SILENCE_SECONDS, samples.size / sample_rate / 2):
        return "long silence"
    if np.mean(np.abs(samples) >= FULL_SCALE) > MAX_CLIPPED_SHARE:
        return "clipped"
    return None


def longest_silence(samples: np.ndarray, sample_rate: int) -> float:
    """Return the longest run of silent frames, in seconds."""
    frame = round(FRAME_SECONDS * sample_rate)
    frames = samples[: samples.size // frame * frame].reshape(-1, frame)
    quiet = np.mean(np.square(frames, dtype=np.float64), axis=1) <= 10 ** (SILENT_FRAME_DB / 10)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    return float(max(edges[1::2] - edges[::2], default=0) * frame / sample_rate)


def set_loudness(samples: np.ndarray, target_rms_db: float) -> tuple[np.ndarray, float]:
    """Return a sounding clip at `target_rms_db`, or as much below as full scale demands, and the gain in dB."""
    gain_db = target_rms_db - rms_db(samples)
    headroom_db = 20 * np.log10(PEAK_LIMIT / np.abs(samples).max())
    gain_db = float(min(gain_db, headroom_db))
    return (samples * np.float32(10 ** (gain_db / 20))).astype(np.float32), gain_db


def fingerprint(samples: np.ndarray) -> str:
    """Return 2,048 bits of a clip (T,) in hex: the signs of how its spectrum changes, in time and over frequency.

    Gain, coding and resampling leave nearly all of them; other music shares about half. After Haitsma and Kalker, "A
    highly robust audio fingerprinting system" (ISMIR 2002).
    """
    size = min(8192, 1 << int(np.log2(samples.size / 4)))
    starts = np.linspace(0, samples.size - size, _FINGERPRINT_FRAMES).astype(int)
    window = np.hanning(size).astype(np.float32)
    power = np.abs(np.fft.rfft(np.stack([samples[s : s + size] * window for s in starts]))) ** 2
    edges = np.geomspace(max(8, size // 256), power.shape[1] * 0.8, _FINGERPRINT_BANDS + 1).astype(int)
    bands = np.log(np.add.reduceat(power, edges, axis=1)[:, :-1] + 1e-20)
    slopes = np.diff(bands, axis=1)
    return np.packbits(np.diff(slopes, axis=0) > 0).tobytes().hex()


def find_duplicates(hashes: Sequence[str], fingerprints: Sequence[str]) -> dict[int, str]:
    """Return {index: "duplicate" or "near duplicate"} of the clips that repeat an earlier one of N.

    Args:
        hashes: digests of their samples.
        fingerprints: from `fingerprint`, all of equal length.
    """
    found, first = {}, {}
    if not fingerprints:
        return found
    bits = np.unpackbits(np.array([list(bytes.fromhex(f)) for f in fingerprints], np.uint8), axis=1)
    signs = bits.astype(np.float32) * 2 - 1
    for index, digest in enumerate(hashes):
        if first.setdefault(digest, index) != index:
            found[index] = "duplicate"
            continue
        # The product of signs counts equal bits minus different ones.
        different = (1 - signs[:index] @ signs[index] / signs.shape[1]) / 2
        different[list(found)] = 1
        if different.size and different.min() < NEAR_DUPLICATE_SHARE:
            found[index] = "near duplicate"
    return found


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

    All batches must be there. What comes out depends on their contents alone, so it does not matter which process does
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
