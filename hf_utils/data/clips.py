"""The clip table: any source of clips as one `datasets.Dataset` with the same columns.

| column      | type                                                                        |
|-------------|-----------------------------------------------------------------------------|
| `audio`     | Audio(decode=False): bytes and path of the file as it came                  |
| `label`     | ClassLabel: genres in one fixed order                                       |
| `track_id`  | string, unique, the same on every machine                                   |
| `origin`    | string: real, noisy, synthetic                                              |
| `parent_id` | string or null: the real track that the clip was made from                  |
| `split`     | string or null: train, validation or test, where the source has such splits |
| others      | flat columns that the source carries: artist, seed, SNR, prompt ...         |

`track_id` is made from the name of the file where the source has none.
"""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

import datasets
import pyarrow.compute

from hf_utils.audio import AUDIO_SUFFIXES
from hf_utils.data.audio_folders import SPLIT_SPELLINGS
from hf_utils.data.columns import find_audio_column, find_label_column, is_flat, read_texts
from hf_utils.data.genre_spellings import choose_spellings, number_labels
from hf_utils.data.sources import read_source
from hf_utils.errors import UserError

logger = logging.getLogger(__name__)
CLIP_COLUMNS = ("audio", "label", "track_id", "origin", "parent_id")
_TEXT = datasets.Value("string")
_MAX_LISTED = 20
_MAX_REPEATED = 10


def genre_names(clips: datasets.Dataset) -> list[str]:
    """Return the genres of a clip table in the order of its labels."""
    return list(clips.features["label"].names)


def label_names(clips: datasets.Dataset) -> list[str]:
    """Return the genre of every clip."""
    genres = genre_names(clips)
    return [genres[label] for label in clips["label"][:]]


def load_clips(
    source: str,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    audio_column: str | None = None,
    label_column: str | None = None,
    genres: list[str] | None = None,
    token: str | None = None,
) -> datasets.Dataset:
    """Return the clip table of `source`. Nothing is decoded.

    Args:
        source: a Hub id, a folder of genre folders, a CSV, a folder of `save_to_disk` or of Parquet files.
        config_name: of a dataset with several configurations.
        revision: of a dataset on the Hub.
        audio_column: where the source has several, or an unusual name.
        label_column: likewise.
        genres: names and order of the labels; spelling variants are folded into them. Default: the source's own
            names in its own order, or sorted where it has only text.
        token: for private and gated datasets on the Hub.

    Raises:
        UserError: the source or a column is missing or ambiguous, a split has a name that tells nothing of its use, a
            label is unknown, a file is missing, or two clips have the same `track_id`.
    """
    table, found_splits, folder = read_source(source, config_name=config_name, revision=revision, token=token)
    if not len(table):
        raise UserError(f"{source} holds no clips.")
    audio_column = find_audio_column(table, audio_column, source)
    label_column = find_label_column(table, label_column, source)
    labels = read_texts(table, label_column)
    genres = genres or getattr(table.features[label_column], "names", None) or choose_spellings(filter(None, labels))
    clips, paths, embedded = _read_files(table, audio_column, folder)
    columns = {
        "label": number_labels(labels, genres),
        "track_id": _name_clips(table, paths, embedded, folder, source),
        "origin": [origin or "real" for origin in _read_optional(table, "origin")],
        "parent_id": _read_optional(table, "parent_id"),
        "split": _name_splits(found_splits, source),
    }
    features = {**dict.fromkeys(columns, _TEXT), "label": datasets.ClassLabel(names=list(genres))}
    for name in _list_provenance(table, {*columns, audio_column, label_column, "audio", "file"}):
        columns[name], features[name] = table[name][:], table.features[name]
    others = datasets.Dataset.from_dict(columns, datasets.Features(features))
    return datasets.concatenate_datasets([clips, others], axis=1)


def _read_files(
    table: datasets.Dataset, audio_column: str, folder: Path | None
) -> tuple[datasets.Dataset, list[str | None], list[bool]]:
    """Return (table with `audio` only, its paths, whether a row holds the file's bytes), relative paths resolved."""
    clips = table.select_columns(audio_column)
    if audio_column != "audio":
        clips = clips.rename_column(audio_column, "audio")
    clips = clips.cast_column("audio", datasets.Audio(decode=False))
    files = clips.with_format("arrow")[:]["audio"]
    paths = pyarrow.compute.struct_field(files, "path").to_pylist()
    embedded = pyarrow.compute.is_valid(pyarrow.compute.struct_field(files, "bytes")).to_pylist()
    if not any(embedded):
        paths = [path and str((folder or Path()) / os.path.expanduser(path)) for path in paths]
        # Paths first, then the type: giving the Audio type up front makes `datasets` load FFmpeg.
        clips = datasets.Dataset.from_dict({"audio": paths}).cast_column("audio", datasets.Audio(decode=False))
    missing = [
        path for path, held in zip(paths, embedded, strict=True) if not held and not (path and Path(path).is_file())
    ]
    if missing:
        listing = "\n".join(f"  {path}" for path in missing[:_MAX_LISTED])
        more = f"\n  and {len(missing) - _MAX_LISTED} more" if len(missing) > _MAX_LISTED else ""
        raise UserError(f"{len(missing)} of {len(paths)} audio files are missing:\n{listing}{more}")
    return clips, paths, embedded


def _read_optional(table: datasets.Dataset, column: str) -> list[str | None]:
    return read_texts(table, column) if column in table.column_names else [None] * len(table)


def _name_clips(
    table: datasets.Dataset, paths: list[str | None], embedded: list[bool], folder: Path | None, source: str
) -> list[str]:
    """Return the source's own `track_id`, or names made from its files."""
    given = _read_optional(table, "track_id")
    # Datasets made from files often keep the original path in `file`, and only a temporary one beside the bytes.
    originals = _read_optional(table, "file")
    files = [original or path for original, path in zip(originals, paths, strict=True)] if any(embedded) else paths
    made = number_unnamed(name_tracks(files, folder), embedded)
    track_ids = [own or name for own, name in zip(given, made, strict=True)]
    refuse_duplicates(track_ids, source)
    return track_ids


def _name_splits(found: list[str | None], source: str) -> list[str | None]:
    """Return the split of every clip in our names.

    One split named train is no split: it is how `datasets` names a dataset that has none.

    Raises:
        UserError: the source's splits have names that say nothing of their use.
    """
    names = sorted(set(found) - {None})
    spelled = {name: SPLIT_SPELLINGS.get(name.lower()) for name in names}
    unknown = [name for name in names if spelled[name] is None]
    if unknown and len(names) > 1:
        raise UserError(
            f"{source}: splits {', '.join(unknown)} are none of train, validation, test. Rename them in the source."
        )
    if set(found) == {"train"}:
        return [None] * len(found)
    return [spelled.get(name) for name in found]


def _list_provenance(table: datasets.Dataset, taken: set[str]) -> list[str]:
    """Return the flat columns beside those of the clip table; log the others, which are left out."""
    others = [name for name in table.column_names if name not in taken]
    flat = [name for name in others if is_flat(table.features[name])]
    if nested := sorted(set(others) - set(flat)):
        logger.info("Columns left out, since they are not flat: %s.", ", ".join(nested))
    return flat


# Names of tracks, made from the names of their files: `genres/blues/blues.00012.wav` is track `blues.00012`.


def name_tracks(paths: Sequence[str | None], folder: Path | None) -> list[str | None]:
    """Return a name per path: the file's name without suffix, or the relative path where several files share that.

    Args:
        paths: None gives None.
        folder: where relative paths start. Default: the deepest folder that all paths share.

    Names do not depend on the machine: they hold nothing above `folder`, and Unicode is composed, since file systems
    differ in that.
    """
    known = [PurePath(unicodedata.normalize("NFC", path)) for path in paths if path]
    stems = Counter(_strip_suffix(path).name for path in known)
    if folder is not None:
        root = unicodedata.normalize("NFC", str(folder))
    else:
        absolute = [path.parent for path in known if path.is_absolute()]
        root = os.path.commonpath(absolute) if absolute else ""
    names = iter(
        stem.name if stems[stem.name] == 1 else _relative(stem, root).as_posix() for stem in map(_strip_suffix, known)
    )
    return [next(names) if path else None for path in paths]


def _strip_suffix(path: PurePath) -> PurePath:
    # Only a known suffix: in `blues.00012` the number is part of the name.
    return path.with_suffix("") if path.suffix.lower() in AUDIO_SUFFIXES else path


def _relative(path: PurePath, root: str) -> PurePath:
    return path.relative_to(root) if path.is_relative_to(root) else path


def number_unnamed(track_ids: Sequence[str | None], embedded: Sequence[bool]) -> list[str]:
    """Return `track_ids` with `row-000012` for clips without a name, or with bytes of their own but a shared name.

    Datasets with embedded files often lost the file names. Two rows with the same path are the same clip twice,
    which is for `refuse_duplicates`.
    """
    counts = Counter(track_ids)
    return [
        f"row-{row:06d}" if name is None or (counts[name] > 1 and embedded[row]) else name
        for row, name in enumerate(track_ids)
    ]


def refuse_duplicates(track_ids: Sequence[str], source: str) -> None:
    """Raise UserError, naming some, if two clips have the same name."""
    if repeated := [name for name, count in Counter(track_ids).items() if count > 1]:
        listing = ", ".join(repeated[:_MAX_REPEATED]) + (" ..." if len(repeated) > _MAX_REPEATED else "")
        raise UserError(
            f"{source}: {len(repeated)} track names occur more than once: {listing}. Every clip needs a track_id of "
            "its own; remove the copies or rename them."
        )
