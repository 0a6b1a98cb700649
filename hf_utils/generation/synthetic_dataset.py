"""A dataset folder of synthetic clips: its missing batches, duplicates between batches, and its card."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from hf_utils.data.shards import Shards
from hf_utils.disclosure import show_source
from hf_utils.generation.card import describe_dataset
from hf_utils.generation.clip_gates import find_duplicates
from hf_utils.generation.recipes import Recipe, clip_features
from hf_utils.generation.scoring import read_scores
from hf_utils.generation.synthesis import BatchError, BatchMaker


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
