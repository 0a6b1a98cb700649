"""The training mix: the real training split and further datasets, such as noisy copies and synthetic clips.

`--train_datasets` names the datasets and how much of each is used. `--train_filter` chooses among their clips by the
scores that were written beside them.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import datasets

from hf_utils.data.clips import label_names
from hf_utils.errors import UserError
from hf_utils.seeding import derive_seed

REAL = "real"

# What training and the leak check need of a decoded clip; other columns differ between datasets.
MIX_COLUMNS = "label track_id origin parent_id parent_sha256 sha256 num_samples pcm_path pcm_offset pcm_gain".split()


def parse_mix(items: Sequence[str]) -> list[tuple[str, float]]:
    """Return [(source, fraction)] of `--train_datasets real data/noisy:0.5`; no fraction means all of it.

    Raises:
        UserError: nothing is named, a source is named twice, or a fraction is no number above 0 and at most 1.
    """
    mix = []
    for item in items:
        source, colon, text = item.rpartition(":")
        if not colon or "/" in text or "\\" in text:
            source, text = item, "1"
        try:
            fraction = float(text)
        except ValueError:
            raise UserError(f"train_datasets: {text!r} in {item!r} is no number; write a fraction as :0.5.") from None
        if not source:
            raise UserError(f"train_datasets: {item!r} names no dataset; expected real, a path or a Hub id.")
        if not 0 < fraction <= 1:  # so that NaN is refused as well
            raise UserError(f"train_datasets: {item!r} asks for {text} of {source}; expected above 0 and at most 1.")
        mix.append((source, fraction))
    if not mix:
        raise UserError("train_datasets is empty; expected real, paths or Hub ids, each with :FRACTION if not all.")
    if repeated := [source for source, count in Counter(source for source, _ in mix).items() if count > 1]:
        raise UserError(f"train_datasets names {', '.join(repeated)} more than once.")
    return mix


def filter_clips(clips: datasets.Dataset, expression: str, source: str) -> datasets.Dataset:
    """Return the clips for which `expression` holds, such as `clap_genre == label and classifier_score > 0.2`.

    Args:
        clips: a clip table with columns of scores.
        expression: in the language of `pandas.DataFrame.query`, over the table's columns; `label` is the genre's name.
        source: what to call the table in messages.

    Raises:
        UserError: the expression cannot be read, names a column that is not there, or no clip is left.
    """
    columns = [name for name in clips.column_names if name != "audio"]
    table = clips.select_columns(columns).to_pandas()
    table["label"] = label_names(clips)
    try:
        kept = table.query(expression).index
    except Exception as error:  # pandas raises whatever the expression made it do
        raise UserError(
            f"train_filter {expression!r} does not work on {source}: {error}. It may compare these columns: "
            f"{', '.join(columns)}."
        ) from error
    if not len(kept):
        raise UserError(f"train_filter {expression!r} leaves none of the {len(clips)} clips of {source}.")
    return clips.select(kept)


def mix_training(
    train: datasets.Dataset,
    extras: Sequence[tuple[str, datasets.Dataset, float]],
    *,
    real_fraction: float = 1.0,
    seed: int,
) -> tuple[datasets.Dataset, dict]:
    """Return (the training mix, its report).

    Args:
        train: decoded clips of the real training split. All of it says which copies may be used, even where less, or
            nothing, of it is trained on.
        extras: (name, decoded clips, fraction). Of a dataset with splits only `train` is used. Clips made from a track
            that is not in `train` are left out. The fraction is drawn per genre from what remains, and a smaller
            fraction is a part of a larger one.
        real_fraction: of `train`; 0 for none.
        seed: of the fractions.

    The mix has `MIX_COLUMNS`. The report: `sources` with {clips, of, fraction, other_splits, parent_not_in_train} by
    name, and `origins` with the number of clips by origin.

    Raises:
        UserError: nothing of a dataset can be used.
    """
    parts, report = [], {}
    known = set(train["track_id"][:])
    if real_fraction:
        parts.append(_draw(train, real_fraction, seed))
        report[REAL] = {"clips": len(parts[0]), "of": len(train), "fraction": real_fraction}
    for name, clips, fraction in extras:
        in_train, usable = _usable_rows(clips, known)
        if not usable:
            raise UserError(
                f"train_datasets: no clip of {name} can be used: {len(clips) - len(in_train)} of {len(clips)} are in "
                f"other splits than train, {len(in_train)} were made from tracks that are not in the training split. "
                "Make it from the same dataset and split."
            )
        parts.append(_draw(clips.select(usable), fraction, seed))
        report[name] = {
            "clips": len(parts[-1]),
            "of": len(clips),
            "fraction": fraction,
            "other_splits": len(clips) - len(in_train),
            "parent_not_in_train": len(in_train) - len(usable),
        }
    mix = datasets.concatenate_datasets([_align(part, train.features) for part in parts])
    return mix, {"sources": report, "origins": dict(Counter(mix["origin"][:]))}


def _align(part: datasets.Dataset, like: datasets.Features) -> datasets.Dataset:
    part = part.select_columns([*MIX_COLUMNS])
    # Labels are numbers: other names or another order would be other genres.
    assert part.features["label"] == like["label"], f"expected {like['label']}, found {part.features['label']}"
    features = datasets.Features({column: like[column] for column in MIX_COLUMNS})
    return part if part.features == features else part.cast(features)


def _usable_rows(clips: datasets.Dataset, known: set[str]) -> tuple[list[int], list[int]]:
    """Return the rows of the train split (all rows without splits), and those of them made from no unknown track."""
    splits = clips["split"][:] if "split" in clips.column_names else [None] * len(clips)
    in_train = [row for row, split in enumerate(splits) if split == "train"] if any(splits) else range(len(clips))
    parents = clips["parent_id"][:]
    return list(in_train), [row for row in in_train if parents[row] is None or parents[row] in known]


def _draw(clips: datasets.Dataset, fraction: float, seed: int) -> datasets.Dataset:
    """Return `fraction` of every genre's clips, at least one, in the order of `clips`."""
    if fraction == 1:
        return clips
    genres = defaultdict(list)
    for row, (label, track_id) in enumerate(zip(clips["label"][:], clips["track_id"][:], strict=True)):
        # Ranked by a number of the track's own: the choice depends neither on the order nor on the other clips.
        genres[label].append((derive_seed(seed, "mix", track_id), row))
    drawn = [sorted(ranked)[: max(1, round(fraction * len(ranked)))] for ranked in genres.values()]
    return clips.select(sorted(row for ranked in drawn for _, row in ranked))
