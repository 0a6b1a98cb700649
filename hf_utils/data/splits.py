"""Which tracks are trained on, which select the checkpoint, and which are tested: the four split protocols.

A split is a set of tracks; windows are cut afterwards. No protocol depends on the order of the clips, and none puts
copies, pieces or known repetitions of one recording into two splits, apart from `provided`, which takes what is given.
"""

import json
import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

import datasets

from hf_utils.arguments.data import SPLITS
from hf_utils.data.clips import genre_names, label_names
from hf_utils.data.genre_spellings import fold_genre
from hf_utils.data.gtzan import join_rows, repetition_groups, track_facts
from hf_utils.data.segments import find_songs
from hf_utils.errors import UserError
from hf_utils.listing import listing
from hf_utils.seeding import derive_seed

logger = logging.getLogger(__name__)

PROTOCOLS = ("filtered", "artist_folds", "stratified", "provided")
HELD_OUT_SHARE = 0.1

# From this share of the tracks of its genres on, a set of GTZAN tracks is taken for GTZAN: usual copies lack a few.
_WHOLE_GTZAN_SHARE = 0.9
_PROTOCOL_COLUMN = "split_protocol"


def split_filtered(names: Sequence[str]) -> list[str | None]:
    """Return the fault-filtered split of GTZAN tracks; its 70 faulty ones get None. Raises UserError for others."""
    facts = track_facts()
    if unknown := sorted({name for name in names if name not in facts}):
        raise UserError(
            f"split_protocol filtered is a list of GTZAN tracks (blues.00000 to rock.00099); {len(unknown)} of "
            f"{len(set(names))} tracks have other names: {listing(unknown)}. Choose {name_alternatives('filtered')}."
        )
    return [facts[name]["filtered_split"] or None for name in names]


def split_artist_folds(
    clips: datasets.Dataset, names: Sequence[str], seed: int, num_folds: int, fold: int
) -> list[str]:
    """Return fold number `fold` as test, the next as validation; no artist is in two folds.

    Artists come from an `artist` column or from the facts of GTZAN. A clip of an unknown artist is its own group.

    Raises:
        UserError: no such fold, or more folds than the clips can be cut into.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # takes half a second, and only this protocol needs it

    if num_folds < len(SPLITS) or not 0 <= fold < num_folds:
        raise UserError(f"artist_folds needs num_folds >= 3 and 0 <= fold < num_folds, found {num_folds} and {fold}")
    labels, joined = clips["label"][:], _group_clips(clips, names, by_artist=True)
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
    _warn_of_few_artists(clips, groups, num_folds)
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
    _warn_of_small_shares(clips, splits, num_folds)
    return splits


def _warn_of_small_shares(clips: datasets.Dataset, splits: Sequence[str], num_folds: int) -> None:
    """Log the genres of which a held-out fold has less than half of its share; `_check_contents` tells of none."""
    genres = label_names(clips)
    sizes, counts = Counter(genres), Counter(zip(splits, genres, strict=True))
    for name in ("validation", "test"):
        small = {
            genre: f"{counts[name, genre]} of {sizes[genre]} {genre} tracks"
            for genre in sorted(sizes)
            if 0 < counts[name, genre] < sizes[genre] / num_folds / 2
        }
        if small:
            logger.warning(
                "Split %s has only %s, less than half of a fold's share: artists with many tracks are in other folds. "
                "Its scores for %s say little; score all folds together, as the report does.",
                *(name, ", ".join(small.values()), "these genres" if len(small) > 1 else "this genre"),
            )


def _warn_of_few_artists(clips: datasets.Dataset, groups: Sequence[int], num_folds: int) -> None:
    """Log the genres that cannot be in every fold, whatever the assignment: an artist is in one fold only."""
    artists: dict[str, set[int]] = {}
    for genre, group in zip(label_names(clips), groups, strict=True):
        artists.setdefault(genre, set()).add(group)
    few = {genre: len(found) for genre, found in artists.items() if len(found) < num_folds}
    if few:
        logger.warning(
            "artist_folds: with %d folds, some folds have no track of %s. Score all folds together, as the report "
            "does, or set --num_folds to %d or less.",
            *(num_folds, " or ".join(f"{genre} ({count} artists)" for genre, count in few.items())),
            max(3, min(few.values())),
        )


def split_stratified(clips: datasets.Dataset, names: Sequence[str], seed: int) -> list[str]:
    """Return 80 % train, 10 % validation and 10 % test tracks of every genre."""
    return _hold_out(clips, names, ["train"] * len(clips), ("test", "validation"), seed)


def split_provided(clips: datasets.Dataset, names: Sequence[str], seed: int) -> list[str | None]:
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
        splits = _hold_out(clips, names, splits, ("validation",), seed)
    return splits


def _hold_out(
    clips: datasets.Dataset, names: Sequence[str], splits: Sequence[str | None], held_out: tuple[str, ...], seed: int
) -> list[str | None]:
    """Return `splits` with a tenth of every genre's training tracks moved to each of `held_out`, in whole groups.

    At least one track, if enough are left for training; groups that reach over several genres stay where they are.
    """
    labels, track_ids = clips["label"][:], clips["track_id"][:]
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(_group_clips(clips, names, by_artist=False)):
        groups.setdefault(group, []).append(row)
    genres: dict[int, list[list[int]]] = {label: [] for label in sorted(set(labels))}
    for rows in groups.values():
        if len({labels[row] for row in rows}) == 1 and all(splits[row] == "train" for row in rows):
            genres[labels[rows[0]]].append(rows)
    splits = list(splits)
    for candidates in genres.values():
        if len(candidates) <= len(held_out):
            continue
        # By a number that belongs to the group, so that adding a track moves few others.
        candidates.sort(key=lambda rows: derive_seed(seed, "split", min(track_ids[row] for row in rows)))
        target = max(1, round(HELD_OUT_SHARE * sum(map(len, candidates))))
        for position, name in enumerate(held_out):
            for row in _take(candidates, target, leave=len(held_out) - position):
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


def recording_names(clips: datasets.Dataset, group_segments: str) -> list[str]:
    """Return per clip the recording that it comes from: the song of a piece, the track of a copy, or its own name.

    What was found of pieces, or may be pieces, is logged.

    Args:
        group_segments: auto, where names must leave no doubt that a clip is a piece; always; or never.
    """
    names = original_names(clips)
    genres = label_names(clips)
    songs = {} if group_segments == "never" else find_songs(names, genres, certain=group_segments == "auto")
    if songs:
        logger.warning(
            "By their names, %d tracks are pieces of %d songs, such as %s: the pieces of a song stay in one split, "
            "and each is scored as a track. If they are songs themselves: --group_segments never.",
            *(len(songs), len(set(songs.values())), _show_pieces(songs)),
        )
    if group_segments == "auto":
        _warn_of_possible_pieces(names, genres, songs)
    return [songs.get(name, name) for name in names]


def _warn_of_possible_pieces(names: Sequence[str], genres: Sequence[str], songs: Mapping[str, str]) -> None:
    """Log the tracks that may be pieces, where they are most of a genre."""
    possible = find_songs(names, genres, certain=False)
    possible = {name: song for name, song in possible.items() if name not in songs}
    genre_of = dict(zip(names, genres, strict=True))
    found, sizes = Counter(map(genre_of.get, possible)), Counter(genre_of.values())
    if any(2 * count > sizes[genre] for genre, count in found.items()):
        logger.warning(
            "%d tracks may be pieces of %d songs, or numbered songs, such as %s: they are split as songs. If they are "
            "pieces, which must not be in two splits: --group_segments always.",
            *(len(possible), len(set(possible.values())), _show_pieces(possible)),
        )


def _show_pieces(songs: Mapping[str, str]) -> str:
    """Return the first two pieces of the first song, and its name."""
    song = min(songs.values())
    return f"{' and '.join(sorted(name for name in songs if songs[name] == song)[:2])} of {song}"


def _group_clips(clips: datasets.Dataset, names: Sequence[str], *, by_artist: bool) -> list[int]:
    """Return a group per clip of what must not be parted: one recording, its repetitions, and by choice artists.

    Args:
        names: from `recording_names`.
    """
    facts, repetitions = track_facts(), repetition_groups()
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


def default_protocol(clips: datasets.Dataset, names: Sequence[str]) -> str:
    """Return what `auto` means: filtered for GTZAN (or whole genres of it), else provided or stratified.

    Args:
        names: from `recording_names`.
    """
    facts = track_facts()
    if all(name in facts for name in names):
        genres = {facts[name]["genre"] for name in names}
        if len(set(names)) >= _WHOLE_GTZAN_SHARE * sum(track["genre"] in genres for track in facts.values()):
            return "filtered"
    return "provided" if "split" in clips.column_names and any(clips["split"][:]) else "stratified"


def assign_splits(
    clips: datasets.Dataset,
    protocol: str,
    *,
    seed: int,
    num_folds: int = 10,
    fold: int = 0,
    group_segments: str = "auto",
    only_evaluate: bool = False,
) -> datasets.Dataset:
    """Return `clips` with `split`: train, validation, test, or null for clips that the protocol leaves out.

    Args:
        clips: a clip table. Where it has `sha256`, identical recordings stay together.
        protocol: one of `PROTOCOLS`, or auto.
        seed: of what is drawn; `filtered` draws nothing.
        num_folds: of artist_folds.
        fold: of artist_folds: the one that is tested; the next one is the validation split.
        group_segments: of `recording_names`.
        only_evaluate: whether nothing is trained, so that splits may lack genres or be empty.

    Raises:
        UserError: the protocol does not fit the clips, a split is empty, or a genre has no training track.
    """
    names = recording_names(clips, group_segments)
    name = default_protocol(clips, names) if protocol == "auto" else protocol
    used = {"name": name, "seed": seed, "num_folds": None, "fold": None}
    if name == "filtered":
        used["seed"] = None
        splits = split_filtered(names)
    elif name == "artist_folds":
        used.update(num_folds=num_folds, fold=fold)
        splits = split_artist_folds(clips, names, seed, num_folds, fold)
    elif name == "stratified":
        splits = split_stratified(clips, names, seed)
    elif name == "provided":
        splits = split_provided(clips, names, seed)
    else:
        raise UserError(f"split_protocol is {protocol!r}, expected auto or one of {', '.join(PROTOCOLS)}")
    _check_contents(clips, splits, name, only_evaluate)
    return set_splits(clips, splits, used)


def set_splits(clips: datasets.Dataset, splits: Sequence[str | None], protocol: Mapping) -> datasets.Dataset:
    """Return `clips` with these splits, one per clip, drawn by `protocol` as `read_protocol` returns it."""
    columns = {"split": list(splits), _PROTOCOL_COLUMN: [json.dumps(dict(protocol))] * len(clips)}
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


def _check_contents(clips: datasets.Dataset, splits: list[str | None], protocol: str, only_evaluate: bool) -> None:
    """Raise UserError for an empty split or a genre without training tracks; log what is missing elsewhere."""
    counts = Counter(zip(clips["label"][:], splits, strict=True))
    lacking = _list_lacking(counts, genre_names(clips))
    sizes = ", ".join(f"{sum(split == name for split in splits)} {name}" for name in SPLITS)
    empty = [name for name in SPLITS if name not in splits]
    if (empty or lacking["train"]) and not only_evaluate:
        fault = (
            f"nothing for {' and '.join(empty)}" if empty else f"no training track of {', '.join(lacking['train'])}"
        )
        raise UserError(
            f"split_protocol {protocol} does not fit these {len(clips)} clips ({sizes}): {fault}. "
            f"Choose {name_alternatives(protocol)}, keep other genres by --genres, or add tracks."
        )
    for name in ("validation", "test"):
        if lacking[name]:
            logger.warning(
                "Split %s has no track of %s: its scores leave that out, so do not compare them with those of other "
                "splits.",
                *(name, ", ".join(lacking[name])),
            )


def find_lacking_genres(clips: datasets.Dataset) -> dict[str, list[str]]:
    """Return {validation or test: genres of which it has no track}, of clips with splits; {} if none is lacking."""
    lacking = _list_lacking(Counter(zip(clips["label"][:], clips["split"][:], strict=True)), genre_names(clips))
    return {name: lacking[name] for name in ("validation", "test") if lacking[name]}


def _list_lacking(counts: Counter, genres: Sequence[str]) -> dict[str, list[str]]:
    return {name: [genre for label, genre in enumerate(genres) if not counts[label, name]] for name in SPLITS}
