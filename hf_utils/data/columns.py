"""Which column of somebody's dataset holds the audio and which the genre; its parts joined by the names of labels.

A column is found by its name or type only where that leaves no choice; else the user is asked. Facts are the flat
columns, in memory: one number, text, time or label per clip. Others, such as audio, stay on disk.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

import datasets
import pyarrow

from hf_utils.data.genre_spellings import spelling_key
from hf_utils.errors import UserError
from hf_utils.listing import listing

logger = logging.getLogger(__name__)
AUDIO_NAMES = ("audio", "file", "path", "file_name", "filename")
LABEL_NAMES = ("genre", "label", "genres")
ORIGINS = ("real", "noisy", "synthetic")
_MADE_COLUMNS = ("track_id", "origin", "parent_id")
_PERHAPS_LABELS = (
    "genre_top top_genre main_genre music_genre subgenre style styles class category target tag tags".split()
)
# As Python or JSON writes one.
_A_LIST = re.compile(r"\[.*\]|\{.*\}")
_TEXT = datasets.Value("string")


def _is_file_struct(feature) -> bool:
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}


def _is_text(feature) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def _is_bytes(feature) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def is_flat(feature) -> bool:
    """Return whether a column holds one number, text, time or label per row."""
    return isinstance(feature, datasets.ClassLabel) or (isinstance(feature, datasets.Value) and not _is_bytes(feature))


def find_by_name(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the columns called one of `names`, in any case, in the order of `names`."""
    columns = list(columns)
    return [column for name in names for column in columns if column.strip().lower() == name]


def find_audio_column(features: datasets.Features, facts: datasets.Dataset, chosen: str | None, source: str) -> str:
    """Return the column of audio files: the `chosen` one, else the Audio feature, bytes with path, or paths by name.

    Args:
        features: of all columns.
        facts: the flat columns.
        chosen: by the user.
        source: how to call the dataset in messages.

    Raises:
        UserError: there is none or there are several, or the `chosen` one is missing or holds no files.
    """
    if chosen is not None:
        _check_present(features, chosen, "audio", source)
        feature = features[chosen]
        if not (isinstance(feature, datasets.Audio) or _is_file_struct(feature) or _is_text(feature)):
            raise UserError(
                f"{source}: audio column {chosen!r} must hold audio files or paths of them, found {feature}."
            )
        return chosen
    paths = [name for name in find_by_name(facts.column_names, AUDIO_NAMES) if _is_text(features[name])]
    for kind in (
        [name for name, feature in features.items() if isinstance(feature, datasets.Audio)],
        [name for name, feature in features.items() if _is_file_struct(feature)],
        paths[:1] if all(facts[name][:] == facts[paths[0]][:] for name in paths) else paths,
    ):
        if len(kind) == 1:
            return kind[0]
        if kind:
            raise UserError(f"{source} has several audio columns: {', '.join(kind)}. Name one by --audio_column_name.")
    raise UserError(
        f"{source} has no audio column. Expected files, or paths in a column named {', '.join(AUDIO_NAMES)}; "
        f"found {_list_columns(features)}. Name it by --audio_column_name."
    )


def find_label_column(features: datasets.Features, facts: datasets.Dataset, chosen: str | None, source: str) -> str:
    """Return the column of genres: the `chosen` one, else genre, label or genres, else the only ClassLabel.

    Arguments are as those of `find_audio_column`. In a clip table, which this project writes, it is `label`.

    Raises:
        UserError: there is none, there are several that differ, or it is missing or holds numbers without names, or
            lists.
    """
    if chosen is not None:
        _check_present(features, chosen, "label", source)
        named = [chosen]
    elif "label" in facts.column_names and set(_MADE_COLUMNS) <= set(facts.column_names):
        named = ["label"]
    else:
        named = find_by_name(features, LABEL_NAMES)
        if named and named[0].lower() == "label":  # a word for many things: of music, also for who publishes it
            named += find_by_name(features, _PERHAPS_LABELS)
    with_names = [name for name in facts.column_names if isinstance(features[name], datasets.ClassLabel)]
    usable = [name for name in named if name in with_names or _is_text(features[name])]
    lists = [name for name in named if not is_flat(features[name])]
    if usable and lists and usable[0].lower() == "label":
        raise UserError(
            f"{source}: column {lists[0]!r} holds several values per clip and may be the genre, and so may "
            f"{usable[0]!r}. If the second is the genre: --label_column_name {usable[0]}; else give a dataset with "
            "one genre per clip."
        )
    if usable:
        column = usable[0] if len(usable) == 1 else _choose_label(facts, usable, source)
        texts = [text for text in read_texts(facts, column, source) if text]
        if lists := [text for text in texts if _A_LIST.fullmatch(text)]:
            raise UserError(
                f"{source}: column {column!r} holds lists, such as {lists[0]}. Give every clip one genre, or name "
                "another column by --label_column_name."
            )
        joined = None if set(_MADE_COLUMNS) <= set(facts.column_names) else _find_joined(texts)
        if joined and not _names_a_folder(joined, facts):
            raise UserError(
                f"{source}: column {column!r} holds several genres in one field, such as {joined!r}. Give every clip "
                "one genre, or name another column by --label_column_name. If it is one genre, write it without | "
                "and ;."
            )
        return column
    if named:
        raise UserError(
            f"{source}: label column {named[0]!r} must be text or a ClassLabel, which has names; "
            f"found {features[named[0]]}. Name another by --label_column_name."
        )
    if len(with_names) > 1:
        raise UserError(
            f"{source} has several label columns: {', '.join(with_names)}. Name one by --label_column_name."
        )
    if with_names:
        return with_names[0]
    raise UserError(
        f"{source} has no label column. Expected {', '.join(LABEL_NAMES)} or one ClassLabel; "
        f"found {_list_columns(features)}. Name it by --label_column_name."
    )


def _find_joined(texts: Iterable[str]) -> str | None:
    """Return a label that names several genres, such as `pop|rock` or `pop;rock`; None if there is none.

    Commas, slashes and plus signs are part of many a genre's name: with them, all parts must be labels themselves.
    """
    texts = list(dict.fromkeys(texts))
    keys = {spelling_key(text) for text in texts}
    for text in texts:
        if len(list(filter(str.strip, re.split(r"[|;]", text)))) > 1:
            return text
        parts = [part for part in re.split(r"[,/+]", text) if part.strip()]
        if len(parts) > 1 and keys.issuperset(spelling_key(part) for part in parts):
            return text
    return None


def _names_a_folder(label: str, facts: datasets.Dataset) -> bool:
    """Return whether files lie in a folder of that name: then it is a genre's."""
    paths = [path for name in find_by_name(facts.column_names, AUDIO_NAMES) for path in facts[name][:]]
    return any(isinstance(path, str) and label in PurePath(path).parts for path in paths)


def _choose_label(facts: datasets.Dataset, names: list[str], source: str) -> str:
    """Return the first of several columns that name the same genre in every row, else raise UserError.

    A column of numbers beside it, one number per genre, is no contradiction.
    """
    texts = {name: read_texts(facts, name, source) for name in names}
    numbers = [name for name in names if all(text is None or re.fullmatch(r"-?\d+", text) for text in texts[name])]
    first = next((name for name in names if name not in numbers), names[0])
    keys = [text and spelling_key(text) for text in texts[first]]
    for name in names:
        pairs = [
            (row, key, spelling_key(text))
            for row, (key, text) in enumerate(zip(keys, texts[name], strict=True))
            if key and text
        ]
        differing = [row for row, key, other in pairs if key != other]
        mapped = {(key, other) for _, key, other in pairs}
        if name in numbers and len(mapped) == len({key for key, _ in mapped}) == len({other for _, other in mapped}):
            continue
        if differing:
            row = differing[0]
            raise UserError(
                f"{source}: columns {first!r} and {name!r} may both be the genre, and differ in {len(differing)} of "
                f"{len(facts)} rows, such as {texts[first][row]!r} and {texts[name][row]!r}. Say which one it is: "
                f"--label_column_name {first}, or --label_column_name {name}."
            )
    return first


def check_reserved(columns: Mapping[str, list[str | None]], source: str) -> None:
    """Raise UserError where a source has a column of one of the clip table's names with another meaning.

    Args:
        columns: track_id, origin and parent_id of every clip.
        source: how to call it in messages.
    """
    if foreign := sorted({repr(origin) for origin in columns["origin"] if origin not in ORIGINS}):
        raise UserError(
            f"{source}: column 'origin' holds {listing(foreign)}. Here it tells whether a clip is "
            f"{', '.join(ORIGINS)}. If it means something else, rename the column; {_RENAME_ADVICE}."
        )
    known = set(columns["track_id"])
    strange = {
        repr(parent)
        for parent, origin in zip(columns["parent_id"], columns["origin"], strict=True)
        if parent is not None and origin == "real" and parent not in known
    }
    if strange:
        raise UserError(
            f"{source}: column 'parent_id' holds {listing(sorted(strange))}, which are no tracks of it. Here it "
            "names the real track that a clip was made from. If it means that, add a column origin with noisy or "
            f"synthetic; else rename the column; {_RENAME_ADVICE}."
        )


_RENAME_ADVICE = "in a dataset of the Hub, save a copy after dataset.rename_column(...) and give its folder"


def _check_present(features: datasets.Features, name: str, kind: str, source: str) -> None:
    if name not in features:
        raise UserError(f"{source} has no {kind} column {name!r}; found {_list_columns(features)}.")


def _list_columns(features: datasets.Features) -> str:
    return ", ".join(name for name in features if name != "split") or "no columns"


def read_texts(table: datasets.Dataset, column: str, source: str) -> list[str | None]:
    """Return a flat column as text: names of a ClassLabel, None for null, unlabelled (-1) and empty fields.

    Raises:
        UserError: a ClassLabel has no name for a number.
    """
    values, feature = table[column][:], table.features[column]
    if not isinstance(feature, datasets.ClassLabel):
        return [None if value is None else str(value).strip() or None for value in values]
    count = len(feature.names)
    if outside := sorted({value for value in values if value is not None and not -1 <= value < count}):
        raise UserError(
            f"{source}: column {column!r} holds {outside[0]}, but it has names for 0 to {count - 1} only: "
            f"{_list_names(feature)}. Correct the dataset."
        )
    return [None if value is None or value < 0 else feature.names[value] for value in values]


def _list_names(feature: datasets.ClassLabel) -> str:
    return listing(feature.names, most=20)


def join_facts(parts: Sequence[tuple[str, datasets.Dataset]], source: str) -> datasets.Dataset:
    """Return the flat columns of all rows of named parts, one part after the other; labels are joined by their names.

    A column that a part lacks is null there.

    Raises:
        UserError: a column has names for its numbers in one part and none in another, or types that do not fit.
    """
    columns, features = {}, {}
    for column in dict.fromkeys(name for _, part in parts for name in part.features if is_flat(part.features[name])):
        kinds = [(name, part.features[column]) for name, part in parts if column in part.column_names]
        feature = features[column] = _join_features(column, kinds, source)
        values = []
        for _, part in parts:
            if column not in part.column_names:
                values += [None] * len(part)
            elif feature == _TEXT or isinstance(feature, datasets.ClassLabel):
                texts = read_texts(part, column, source)
                values += texts if feature == _TEXT else [text and feature.str2int(text) for text in texts]
            else:
                values += part.with_format(None)[column][:]
        columns[column] = values
    return datasets.Dataset.from_dict(columns, datasets.Features(features))


def _join_features(column: str, kinds: Sequence[tuple[str, object]], source: str):
    """Return the type that a column of several parts gets: that of all, text for labels, else a number's."""
    kinds = [(name, kind) for name, kind in kinds if kind != datasets.Value("null")] or kinds[:1]
    found = [kind for _, kind in kinds]
    if all(kind == found[0] for kind in found):
        return found[0]
    parts = "; ".join(dict.fromkeys(f"{name}: {_describe(kind)}" for name, kind in kinds))
    if all(isinstance(kind, datasets.ClassLabel) or _is_text(kind) for kind in found):
        if any(isinstance(kind, datasets.ClassLabel) for kind in found):
            logger.warning("%s: column %r is read by name, since its lists differ: %s.", source, column, parts)
        return _TEXT
    if all(pyarrow.types.is_integer(kind.pa_type) or pyarrow.types.is_floating(kind.pa_type) for kind in found):
        if not any(isinstance(kind, datasets.ClassLabel) for kind in found):
            return datasets.Value("float64")
    raise UserError(
        f"{source}: column {column!r} is not the same in all parts ({parts}). Numbers without names tell no genre: "
        "give every part the names, or the same type."
    )


def _describe(feature) -> str:
    if isinstance(feature, datasets.ClassLabel):
        return _list_names(feature)
    return "text" if _is_text(feature) else f"no names, {feature.dtype}"
