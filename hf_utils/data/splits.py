"""Which tracks are trained on, which select the checkpoint, and which are tested: the four split protocols.

A split is a set of tracks; windows are cut afterwards. No protocol depends on the order of the clips.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence

import datasets

from hf_utils.data.clips import genre_names
from hf_utils.data.genre_names import fold_genre
from hf_utils.data.gtzan import track_facts
from hf_utils.data.protocols import (
    SPLITS,
    name_alternatives,
    original_names,
    split_artist_folds,
    split_filtered,
    split_provided,
    split_stratified,
)
from hf_utils.errors import UserError

logger = logging.getLogger(__name__)

PROTOCOLS = ("filtered", "artist_folds", "stratified", "provided")
# From this share of the tracks of its genres on, a set of GTZAN tracks is taken for GTZAN: usual copies lack a few.
_WHOLE_GTZAN_SHARE = 0.9
_PROTOCOL_COLUMN = "split_protocol"


def default_protocol(clips: datasets.Dataset) -> str:
    """Return what `auto` means: filtered for GTZAN (or whole genres of it), else provided or stratified."""
    facts = track_facts()
    names = original_names(clips)
    if all(name in facts for name in names):
        genres = {facts[name]["genre"] for name in names}
        if len(set(names)) >= _WHOLE_GTZAN_SHARE * sum(track["genre"] in genres for track in facts.values()):
            return "filtered"
    return "provided" if "split" in clips.column_names and any(clips["split"][:]) else "stratified"


def assign_splits(
    clips: datasets.Dataset, protocol: str, *, seed: int, num_folds: int = 10, fold: int = 0
) -> datasets.Dataset:
    """Return `clips` with `split`: train, validation, test, or null for clips that the protocol leaves out.

    Args:
        clips: a clip table. Where it has `sha256`, identical recordings stay together.
        protocol: one of `PROTOCOLS`, or auto.
        seed: of what is drawn; `filtered` draws nothing.
        num_folds: of artist_folds.
        fold: of artist_folds: the one that is tested; the next one is the validation split.

    Raises:
        UserError: the protocol does not fit the clips, a split is empty, or a genre has no training track.
    """
    name = default_protocol(clips) if protocol == "auto" else protocol
    used = {"name": name, "seed": seed, "num_folds": None, "fold": None}
    if name == "filtered":
        used["seed"] = None
        splits = split_filtered(clips)
    elif name == "artist_folds":
        used.update(num_folds=num_folds, fold=fold)
        splits = split_artist_folds(clips, seed, num_folds, fold)
    elif name == "stratified":
        splits = split_stratified(clips, seed)
    elif name == "provided":
        splits = split_provided(clips, seed)
    else:
        raise UserError(f"split_protocol is {protocol!r}, expected auto or one of {', '.join(PROTOCOLS)}")
    _check_contents(clips, splits, name)
    columns = {"split": splits, _PROTOCOL_COLUMN: [json.dumps(used)] * len(clips)}
    clips = clips.remove_columns([column for column in columns if column in clips.column_names])
    for column, values in columns.items():
        clips = clips.add_column(column, values, feature=datasets.Value("string"))
    return clips


def read_protocol(clips: datasets.Dataset) -> dict:
    """Return {name, seed, num_folds, fold} of what `assign_splits` did; None for what the protocol does not use."""
    return json.loads(clips[_PROTOCOL_COLUMN][0])


def select_split(clips: datasets.Dataset, name: str) -> datasets.Dataset:
    """Return the clips of one split. Raises UserError if there are none."""
    rows = [row for row, split in enumerate(clips["split"][:]) if split == name]
    if not rows:
        raise UserError(f"No clip is in the {name} split. Add tracks, or choose another --split_protocol.")
    return clips.select(rows)


def keep_genres(clips: datasets.Dataset, genres: Sequence[str]) -> datasets.Dataset:
    """Return the clips of `genres`, which become the labels in this order. Raises UserError for an unknown genre."""
    known = genre_names(clips)
    wanted = [fold_genre(genre, known) for genre in genres]
    if None in wanted:
        unknown = ", ".join(genre for genre, name in zip(genres, wanted, strict=True) if name is None)
        raise UserError(f"genres: the dataset has no {unknown}. It has: {', '.join(known)}.")
    if len(set(wanted)) < len(wanted):
        raise UserError(f"genres names one genre twice: {', '.join(genres)}.")
    numbers = {known.index(name): number for number, name in enumerate(wanted)}
    labels = [numbers.get(label) for label in clips["label"][:]]
    order = clips.column_names
    clips = clips.remove_columns("label").add_column("label", labels, feature=datasets.ClassLabel(names=wanted))
    return clips.select_columns(order).select([row for row, label in enumerate(labels) if label is not None])


def describe_splits(clips: datasets.Dataset) -> str:
    """Return a table of clips per genre and split, headed by the protocol, of clips from `assign_splits`."""
    counts = Counter(zip(clips["label"][:], clips["split"][:], strict=True))
    columns = [*SPLITS, None] if None in set(clips["split"][:]) else [*SPLITS]
    rows = [["genre", *(split or "left out" for split in columns), "total"]]
    for label, genre in enumerate(genre_names(clips)):
        cells = [counts[label, split] for split in columns]
        rows.append([genre, *cells, sum(cells)])
    rows.append(["all genres", *(sum(column) for column in list(zip(*rows[1:], strict=True))[1:])])
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        f"{row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    used = {key: value for key, value in read_protocol(clips).items() if key != "name" and value is not None}
    settings = ", ".join(f"{key} {value}" for key, value in used.items())
    title = f"Split protocol {read_protocol(clips)['name']}" + (f" ({settings})" if settings else "")
    return "\n".join([f"{title}, clips per genre:", *lines])


def _check_contents(clips: datasets.Dataset, splits: list[str | None], protocol: str) -> None:
    """Raise UserError for an empty split or a genre without training tracks; log what is missing elsewhere."""
    counts = Counter(zip(clips["label"][:], splits, strict=True))
    genres = genre_names(clips)
    lacking = {name: [genre for label, genre in enumerate(genres) if not counts[label, name]] for name in SPLITS}
    sizes = ", ".join(f"{sum(split == name for split in splits)} {name}" for name in SPLITS)
    empty = [name for name in SPLITS if name not in splits]
    if empty or lacking["train"]:
        fault = (
            f"nothing for {' and '.join(empty)}" if empty else f"no training track of {', '.join(lacking['train'])}"
        )
        raise UserError(
            f"split_protocol {protocol} does not fit these {len(clips)} clips ({sizes}): {fault}. "
            f"Choose {name_alternatives(protocol)}, keep other genres by --genres, or add tracks."
        )
    for name in ("validation", "test"):
        if lacking[name]:
            logger.warning("Split %s has no track of %s.", name, ", ".join(lacking[name]))
