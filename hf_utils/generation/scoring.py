"""Scores as columns beside the clips of a dataset folder: a pass over its shards, after generation or at any time.

Every shard is scored as a whole, from the clips as they are on disk, so that it does not matter when, by how many
processes, or after how many kills. While only some shards have a score the folder has no card, and cannot be loaded.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from tqdm.auto import tqdm

from hf_utils import audio
from hf_utils.data.shards import Shards
from hf_utils.errors import UserError
from hf_utils.generation.plan import SCORE_COLUMNS, Recipe, clip_features

logger = logging.getLogger(__name__)


class Scorer(Protocol):
    """What gives the columns of one kind of score."""

    def score(self, clips: Sequence[np.ndarray], sample_rate: int, labels: Sequence[int]) -> list[dict]:
        """Return the columns of each of B clips (T,), whose intended genres are `labels`."""


def check_scores(shards: Shards, wanted: Mapping[str, str], *, overwrite: bool) -> None:
    """Raise UserError, with the difference, if the folder has scores of other models and they may not be replaced.

    Args:
        wanted: the model of each score that is asked for, by the columns that name them in `SCORE_COLUMNS`.
    """
    found = [_read_models(shards, index) for index in range(len(shards.paths))]
    differences = []
    for column, model in wanted.items():
        if others := sorted({models[column] for models in found if column in models} - {model}):
            differences.append(f"  {column}: {', '.join(others)} in the folder, {model} now")
    if differences and not overwrite:
        raise UserError(
            f"{shards.folder} has scores by other models; nothing was changed. The difference:\n"
            + "\n".join(differences)
            + "\nLeave the option out to keep them, or replace them by --overwrite_scores."
        )


def find_unscored(shards: Shards, wanted: Mapping[str, str]) -> dict[int, dict[str, str]]:
    """Return {shard: those of `wanted` that it lacks}; a shard that is not made yet lacks all."""
    lacking = {index: _find_lacking(shards, index, wanted) for index in range(len(shards.paths))}
    return {index: models for index, models in lacking.items() if models}


def add_scores(
    shards: Shards,
    recipe: Recipe,
    scorers: Mapping[str, Scorer],
    wanted: Mapping[str, str],
    *,
    part: int = 0,
    num_parts: int = 1,
    show_progress: bool,
) -> None:
    """Score every shard that lacks scores, those of one of `num_parts` processes first; all clips must be there.

    Args:
        scorers: by the columns that name their models in `SCORE_COLUMNS`; none for what no shard lacks.
        wanted: as in `check_scores`.
    """
    unscored = find_unscored(shards, wanted)
    if not unscored:
        return
    shards.reopen()
    own = [index for index in unscored if index % num_parts == part]
    # What others have not done by then, from the end: side by side with its owner everything would be done twice.
    others = [index for index in reversed(unscored) if index not in own]
    models = {model for lacking in unscored.values() for model in lacking.values()}
    total = sum(len(recipe.batch_indices(index)) for index in unscored)
    logger.info("%d of %d clips get scores by %s.", total, recipe.num_clips, ", ".join(sorted(models)))
    with tqdm(total=total, desc="Scoring", unit="clip", disable=None if show_progress else True) as bar:
        for index in own + others:
            _score_shard(shards, index, recipe, scorers, wanted)
            bar.update(len(recipe.batch_indices(index)))


def read_scores(shards: Shards) -> dict[str, str]:
    """Return the models whose scores all clips have, by column. Raises UserError if only some clips have them."""
    found = [_read_models(shards, index) for index in range(len(shards.paths))]
    scores = [set(models.items()) for models in found]
    if partial := set.union(*scores) - set.intersection(*scores):
        names = ", ".join(f"{column} {model}" for column, model in sorted(partial))
        raise UserError(
            f"{shards.folder}: scoring was stopped on the way, and only some clips have their scores ({names}). Give "
            "the options of that command again: it goes on where it stopped."
        )
    return found[0]


def _read_models(shards: Shards, index: int) -> dict[str, str]:
    """Return the model of each score that a shard has."""
    if not shards.paths[index].exists():
        return {}
    table = shards.read_shard(index, list(SCORE_COLUMNS))
    return {column: table[column][0].as_py() for column in table.column_names}


def _find_lacking(shards: Shards, index: int, wanted: Mapping[str, str]) -> dict[str, str]:
    models = _read_models(shards, index)
    return {column: model for column, model in wanted.items() if models.get(column) != model}


def _score_shard(
    shards: Shards, index: int, recipe: Recipe, scorers: Mapping[str, Scorer], wanted: Mapping[str, str]
) -> None:
    lacking = _find_lacking(shards, index, wanted)
    if not lacking:
        return  # scored by another process meanwhile
    rows = shards.read_shard(index).to_pylist()
    clips, labels = [audio.decode(row["audio"]["bytes"])[0] for row in rows], [row["label"] for row in rows]
    for column, model in lacking.items():
        scores = scorers[column].score(clips, recipe.sample_rate, labels)
        rows = [row | values | {column: model} for row, values in zip(rows, scores, strict=True)]
    shards.write(index, rows, clip_features(recipe.genres, _read_models(shards, index) | lacking))
