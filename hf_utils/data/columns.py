"""Which column of somebody's dataset holds the audio, and which the genre."""

import datasets

from hf_utils.errors import UserError

AUDIO_NAMES = ("audio", "file", "path")
LABEL_NAMES = ("genre", "label", "genres")


def _is_file_struct(feature) -> bool:
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}


def _is_text(feature) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def _is_bytes(feature) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def is_flat(feature) -> bool:
    """Return whether a column holds one number, text, time or label per row."""
    return isinstance(feature, datasets.ClassLabel) or (isinstance(feature, datasets.Value) and not _is_bytes(feature))


def find_audio_column(table: datasets.Dataset, chosen: str | None, source: str) -> str:
    """Return the column of audio files: the `chosen` one, else the Audio feature, bytes with path, or paths by name.

    Raises:
        UserError: there is none or there are several, or the `chosen` one is missing or holds no files.
    """
    features = table.features
    if chosen is not None:
        _check_present(table, chosen, "audio", source)
        feature = features[chosen]
        if not (isinstance(feature, datasets.Audio) or _is_file_struct(feature) or _is_text(feature)):
            raise UserError(
                f"{source}: audio column {chosen!r} must hold audio files or paths of them, found {feature}."
            )
        return chosen
    for kind in (
        [name for name, feature in features.items() if isinstance(feature, datasets.Audio)],
        [name for name, feature in features.items() if _is_file_struct(feature)],
        [name for name in AUDIO_NAMES if name in features and _is_text(features[name])],
    ):
        if len(kind) == 1 or (kind and kind[0] in AUDIO_NAMES and _is_text(features[kind[0]])):
            return kind[0]
        if kind:
            raise UserError(f"{source} has several audio columns: {', '.join(kind)}. Name one by --audio_column_name.")
    raise UserError(
        f"{source} has no audio column. Expected files, or paths in a column named {', '.join(AUDIO_NAMES)}; "
        f"found {_list_columns(table)}. Name it by --audio_column_name."
    )


def find_label_column(table: datasets.Dataset, chosen: str | None, source: str) -> str:
    """Return the column of genres: the `chosen` one, else genre, label or genres, else the only ClassLabel.

    Raises:
        UserError: there is none or there are several, or it is missing or holds numbers without names.
    """
    features = table.features
    if chosen is not None:
        _check_present(table, chosen, "label", source)
        candidates = [chosen]
    else:
        candidates = [name for name in LABEL_NAMES if name in features]
        candidates += [
            name
            for name, feature in features.items()
            if isinstance(feature, datasets.ClassLabel) and name not in candidates
        ]
    usable = [
        name for name in candidates if isinstance(features[name], datasets.ClassLabel) or _is_text(features[name])
    ]
    if usable and (len(usable) == 1 or usable[0] in LABEL_NAMES):
        return usable[0]
    if usable:
        raise UserError(f"{source} has several label columns: {', '.join(usable)}. Name one by --label_column_name.")
    if candidates:
        raise UserError(
            f"{source}: label column {candidates[0]!r} must be text or a ClassLabel, which has names; "
            f"found {features[candidates[0]]}. Name another by --label_column_name."
        )
    raise UserError(
        f"{source} has no label column. Expected {', '.join(LABEL_NAMES)} or one ClassLabel; "
        f"found {_list_columns(table)}. Name it by --label_column_name."
    )


def _check_present(table: datasets.Dataset, name: str, kind: str, source: str) -> None:
    if name not in table.column_names:
        raise UserError(f"{source} has no {kind} column {name!r}; found {_list_columns(table)}.")


def _list_columns(table: datasets.Dataset) -> str:
    return ", ".join(name for name in table.column_names if name != "split") or "no columns"


def read_texts(table: datasets.Dataset, column: str) -> list[str | None]:
    """Return a flat column as text: names of a ClassLabel, None for null, unlabelled (-1) and empty fields."""
    values, feature = table[column][:], table.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return [None if value is None or value < 0 else feature.names[value] for value in values]
    return [None if value is None else str(value).strip() or None for value in values]
