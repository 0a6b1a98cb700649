"""What the split protocols do: a list of train, validation, test or None, one per clip of a clip table.

No protocol depends on the order of the clips, and none parts what is one recording.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Sequence

import datasets

from hf_utils.data.gtzan import join_rows, repetition_groups, track_facts
from hf_utils.errors import UserError
from hf_utils.seeding import derive_seed

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
HELD_OUT_SHARE = 0.1
_MAX_LISTED = 5


def split_filtered(clips: datasets.Dataset) -> list[str | None]:
    """Return the fault-filtered GTZAN split; its 70 faulty tracks get None. Raises UserError for other tracks."""
    facts = track_facts()
    names = original_names(clips)
    if unknown := sorted({name for name in names if name not in facts}):
        listing = ", ".join(unknown[:_MAX_LISTED]) + (" ..." if len(unknown) > _MAX_LISTED else "")
        raise UserError(
            f"split_protocol filtered is a list of GTZAN tracks (blues.00000 to rock.00099); {len(unknown)} of "
            f"{len(set(names))} tracks have other names: {listing}. Choose {name_alternatives('filtered')}."
        )
    return [facts[name]["filtered_split"] or None for name in names]


def split_artist_folds(clips: datasets.Dataset, seed: int, num_folds: int, fold: int) -> list[str]:
    """Return fold number `fold` as test, the next as validation; no artist is in two folds.

    Artists come from an `artist` column or from the facts of GTZAN. Clips of an unknown artist stand alone.

    Raises:
        UserError: no such fold, or more folds than the clips can be cut into.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # half a second, for this protocol alone

    if num_folds < len(SPLITS) or not 0 <= fold < num_folds:
        raise UserError(f"artist_folds needs num_folds >= 3 and 0 <= fold < num_folds, found {num_folds} and {fold}")
    labels, joined = clips["label"][:], _group_clips(clips, by_artist=True)
    order = sorted(range(len(clips)), key=clips["track_id"][:].__getitem__)
    # Numbered as they come by name, since scikit-learn shuffles groups by their numbers.
    numbers = {group: number for number, group in enumerate(dict.fromkeys(joined[row] for row in order))}
    groups = [numbers[group] for group in joined]
    most = min(len(numbers), max(Counter(labels).values()))
    if num_folds > most:
        raise UserError(
            f"num_folds is {num_folds}, but these {len(clips)} clips of {len(numbers)} artists can be cut into "
            f"{most} at most. Lower --num_folds, or choose {name_alternatives('artist_folds')}."
        )
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():  # small genres: `_check_contents` says what came of it
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = [
            rows for _, rows in folds.split(order, [labels[row] for row in order], [groups[row] for row in order])
        ]
    splits = ["train"] * len(clips)
    for name, part in (("test", parts[fold]), ("validation", parts[(fold + 1) % num_folds])):
        for position in part:
            splits[order[position]] = name
    return splits


def split_stratified(clips: datasets.Dataset, seed: int) -> list[str]:
    """Return 80 % train, 10 % validation and 10 % test tracks of every genre."""
    return _hold_out(clips, ["train"] * len(clips), ("test", "validation"), seed)


def split_provided(clips: datasets.Dataset, seed: int) -> list[str | None]:
    """Return the source's own splits; without a validation split, a tenth of train becomes one.

    Raises:
        UserError: there is no train or no test split.
    """
    splits = clips["split"][:] if "split" in clips.column_names else [None] * len(clips)
    for name in ("train", "test"):
        if name not in splits:
            found = ", ".join(sorted({split for split in splits if split})) or "no splits"
            raise UserError(
                f"split_protocol provided: the dataset has no {name} split; found {found}. Choose "
                f"{name_alternatives('provided')}."
            )
    if "validation" not in splits:
        logger.warning("The dataset has no validation split: %g %% of train is set aside.", 100 * HELD_OUT_SHARE)
        splits = _hold_out(clips, splits, ("validation",), seed)
    return splits


def _hold_out(
    clips: datasets.Dataset, splits: Sequence[str | None], names: tuple[str, ...], seed: int
) -> list[str | None]:
    """Return `splits` with a tenth of every genre's training tracks moved to each of `names`; groups stay together.

    At least one track, if enough are left for training; groups that reach over several genres stay where they are.
    """
    labels, track_ids = clips["label"][:], clips["track_id"][:]
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(_group_clips(clips, by_artist=False)):
        groups.setdefault(group, []).append(row)
    genres: dict[int, list[list[int]]] = {label: [] for label in sorted(set(labels))}
    for rows in groups.values():
        if len({labels[row] for row in rows}) == 1 and all(splits[row] == "train" for row in rows):
            genres[labels[rows[0]]].append(rows)
    splits = list(splits)
    for candidates in genres.values():
        if len(candidates) <= len(names):
            continue
        # By a number that belongs to the group, so that adding a track moves few others.
        candidates.sort(key=lambda rows: derive_seed(seed, "split", min(track_ids[row] for row in rows)))
        target = max(1, round(HELD_OUT_SHARE * sum(map(len, candidates))))
        for position, name in enumerate(names):
            for row in _take(candidates, target, leave=len(names) - position):
                splits[row] = name
    return splits


def _take(candidates: list[list[int]], target: int, *, leave: int) -> list[int]:
    """Take groups out of `candidates`, in order, up to `target` rows, and leave at least `leave` groups.

    The smallest group is taken where every one is larger than the target.
    """
    taken: list[int] = []
    for rows in candidates[:]:
        if len(taken) + len(rows) <= target and len(candidates) > leave:
            candidates.remove(rows)
            taken += rows
    return taken or candidates.pop(candidates.index(min(candidates, key=len)))


def original_names(clips: datasets.Dataset) -> list[str]:
    """Return per clip the track that it is, or that it was made from."""
    return [parent or own for own, parent in zip(clips["track_id"][:], clips["parent_id"][:], strict=True)]


def _group_clips(clips: datasets.Dataset, *, by_artist: bool) -> list[int]:
    """Return a group per clip of what must not be parted: copies of one track, repetitions, and by choice artists."""
    facts, repetitions = track_facts(), repetition_groups()
    names = original_names(clips)
    keys = [[("track", repetitions.get(name, name))] for name in names]
    if "sha256" in clips.column_names:
        for row_keys, digest in zip(keys, clips["sha256"][:], strict=True):
            row_keys.extend([("recording", digest)] if digest else [])
    if by_artist:
        given = clips["artist"][:] if "artist" in clips.column_names else [None] * len(clips)
        for row_keys, name, artist in zip(keys, names, given, strict=True):
            artist = artist or facts.get(name, {}).get("artist")
            row_keys.extend([("artist", artist.strip().casefold())] if artist else [])
    return join_rows(keys)


def name_alternatives(protocol: str) -> str:
    """Return what to choose instead of `protocol`, as flags, to end an error message with."""
    others = [name for name in ("stratified", "artist_folds", "provided") if name != protocol]
    return f"--split_protocol {' or '.join(others)}"
