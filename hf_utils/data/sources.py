"""Where clips come from: a Hub id, a folder of genre folders, a CSV, a saved dataset, a folder of Parquet files.

Every reader gives the columns as they came, and the source's own names of splits. Nothing is decoded, and nothing of
`datasets` that needs FFmpeg is used (its `audiofolder` does).

Audio files on disk: a folder per genre, and perhaps a folder per split above those.

Which column of somebody's dataset holds the audio and which the genre.
"""

import csv
import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import datasets
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError

from hf_utils.audio import AUDIO_SUFFIXES
from hf_utils.errors import UserError

logger = logging.getLogger(__name__)
SPLIT_SPELLINGS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def read_genre_folders(path: Path) -> datasets.Dataset:
    """Return the clips of `<genre>/**/<file>`, or of `<split>/<genre>/**/<file>` where every folder is a split."""
    folders = _list_folders(path)
    if folders and all(f.name.lower() in SPLIT_SPELLINGS and _list_folders(f) for f in folders):
        genres = [(split.name, genre) for split in folders for genre in _list_folders(split)]
    else:
        genres = [(None, genre) for genre in folders]
    rows, empty = [], []
    beside = [e for e in path.iterdir() if e.is_file() and e.name[0] != "." and e.suffix != ".md"]  # .md: its own page
    ignored = Counter(e.suffix.lower() or e.name for e in beside)
    for split, genre in genres:
        files, others = list_files(genre, AUDIO_SUFFIXES)
        ignored.update(others)
        rows += [{"audio": str(file), "label": genre.name, "split": split} for file in files]
        if not files:
            empty.append(genre.name)
    if rows and empty:
        logger.warning("%s: folders without audio files are not taken as genres: %s.", path, ", ".join(empty))
    if ignored:
        listing = ", ".join(f"{suffix} ({count})" for suffix, count in sorted(ignored.items()))
        logger.warning("%s: %d files that are no audio are ignored: %s.", path, ignored.total(), listing)
    if not rows:
        raise UserError(
            f"No clips in {path}. Expected a folder per genre with audio files ({' '.join(sorted(AUDIO_SUFFIXES))}), "
            f"found {len(folders)} folders and {ignored.total()} other files."
        )
    features = datasets.Features({name: datasets.Value("string") for name in ("audio", "label", "split")})
    try:
        return datasets.Dataset.from_list(rows, features)
    except UnicodeEncodeError as error:  # names from before UTF-8, which no table can hold
        raise UserError(f"Rename this file, whose name is not valid UTF-8: {error.object!r}.") from error


def _list_folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def list_files(folder: Path, suffixes: set[str] | frozenset[str]) -> tuple[list[Path], Counter]:
    """Return the files below `folder` with one of `suffixes`, sorted, and counts of the others; hidden ones aside."""
    found, others = [], Counter()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(parent, name) for name in names if not name.startswith(".")):
            if file.suffix.lower() in suffixes:
                found.append(file)
            else:
                others[file.suffix.lower() or file.name] += 1
    return sorted(found), others


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


# Loading scripts that `datasets` >= 4 refuses, and Parquet copies of the same clips.
SCRIPT_DATASETS = {"marsyas/gtzan": "sanchit-gandhi/gtzan"}

# The name for files that belong to no split, where `datasets` wants one.
UNSPLIT = "unsplit"

# `train-00000-of-00002.parquet` names any split; in other paths only the usual names are looked for.
_SHARD_NAME = re.compile(r"(\w+(?:\.\w+)*)-\d+-of-\d+")
_SPLIT_IN_PATH = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_SPELLINGS)})(?![a-z])")

# A table and the split of every row.
_Rows = tuple[datasets.Dataset, list[str | None]]


class Source(NamedTuple):
    """Clips as they came.

    Attributes:
        table: N rows. `splits` is no column of it: `datasets` 5.2 cannot add columns to a table of files on disk of
            which all columns added before were removed.
        splits: N names, as the source spells them, or None.
        folder: where relative paths start; None for the Hub.
    """

    table: datasets.Dataset
    splits: list[str | None]
    folder: Path | None


def read_source(source: str, *, config_name: str | None, revision: str | None, token: str | None) -> Source:
    """Return the clips of `source`. An existing path wins over a Hub id of that name.

    Raises:
        UserError: the source does not exist, cannot be reached, is unfinished, or is none of the kinds.
    """
    path = Path(os.path.abspath(os.path.expanduser(source)))
    if not path.exists():
        if source.startswith((".", "~", os.sep)) or source.count("/") > 1 or path.suffix in (".csv", ".parquet"):
            raise UserError(f"No such folder or file: {source} (looked in {Path.cwd()}).")
        return Source(*_read_hub(source, config_name, revision, token), None)
    if revision is not None:
        raise UserError(f"A revision ({revision!r}) is for datasets on the Hub; {source} is a local path.")
    try:
        return _read_local(path, config_name)
    except OSError as error:
        raise UserError(f"Cannot read {error.filename or path}: {error.strerror}.") from error


def _read_local(path: Path, config_name: str | None) -> Source:
    parquet_files = _find_parquet(path, config_name)
    if config_name is not None and not parquet_files:
        raise UserError(f"No Parquet files of a configuration {config_name!r} in {path}.")
    if parquet_files:
        return Source(*_read_parquet(path, parquet_files), path if path.is_dir() else path.parent)
    if path.suffix.lower() == ".csv":
        return Source(*_join_splits({UNSPLIT: _read_csv(path)}), path.parent)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return Source(*_read_saved(path), path)
    if path.is_dir():
        return Source(*_join_splits({UNSPLIT: read_genre_folders(path)}), path)
    raise UserError(f"{path} is a file, but no CSV and no Parquet file. Give a folder, a .csv or a Hub id.")


def _read_hub(source: str, config_name: str | None, revision: str | None, token: str | None) -> _Rows:
    if copy := SCRIPT_DATASETS.get(source.lower()):
        raise UserError(
            f"{source} is a loading script, which `datasets` >= 4 cannot run. Use the Parquet copy {copy} instead, "
            "or a folder of genre folders."
        )
    try:
        return _join_splits(datasets.load_dataset(source, config_name, revision=revision, token=token))
    except (DatasetsError, HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"Cannot load {source!r} from the Hub: {error}\n{_advise(source, error)}") from error


def _advise(source: str, error: Exception) -> str:
    """Return what to do about an error of `load_dataset`."""
    if "scripts are no longer supported" in str(error):
        return "It is a loading script, which `datasets` >= 4 cannot run. Use a Parquet copy or a local folder."
    if isinstance(error, ConnectionError):
        return (
            "Check the network (and HF_HUB_OFFLINE), or download the clips once and give their folder. "
            f"If {source} was meant to be a local folder: it does not exist here."
        )
    return (
        f"Check the name, configuration and revision at https://huggingface.co/datasets/{source}; a private or gated "
        "dataset needs its conditions accepted there and `hf auth login`. "
        f"If {source} was meant to be a local folder: it does not exist here."
    )


def _join_splits(parts: Mapping[str, datasets.Dataset]) -> _Rows:
    """Return (all rows one after the other, their splits). A `split` column of the table itself comes first."""
    table = datasets.concatenate_datasets([part.with_format(None) for part in parts.values()])
    if "split" in table.column_names:
        return table, read_texts(table, "split")
    return table, [None if name == UNSPLIT else str(name) for name, part in parts.items() for _ in range(len(part))]


def _find_parquet(path: Path, config_name: str | None) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".parquet" else []
    if (path / "data").is_dir() and (path / "config.json").is_file() and not (path / "README.md").is_file():
        raise UserError(
            f"{path} is unfinished: it has a config.json, but no README.md, which is written when all shards are "
            "there. Run the command that makes it again; it goes on where it stopped."
        )
    return list_files(path / (config_name or ""), {".parquet"})[0]


def _name_split(file: Path) -> str:
    """Return the split that the name of a file, or of a folder below the first, speaks of."""
    if shard := _SHARD_NAME.match(file.stem):
        return shard[1]
    below = file.with_suffix("").parts[1:] or (file.stem,)
    # The last match: a file's name says more than its folder's.
    return (_SPLIT_IN_PATH.findall("/".join(below).lower()) or [UNSPLIT])[-1]


def _read_parquet(path: Path, files: list[Path]) -> _Rows:
    splits: dict[str, list[str]] = {}
    for file in files:
        # Escaped, since `datasets` reads brackets in a path as a pattern.
        splits.setdefault(_name_split(file.relative_to(path.parent)), []).append(glob.escape(str(file)))
    try:
        return _join_splits(datasets.load_dataset("parquet", data_files=splits))
    except (DatasetsError, OSError, ValueError) as error:
        raise UserError(f"Cannot read the Parquet files in {path}: {error.__cause__ or error}") from error


def _read_saved(path: Path) -> _Rows:
    try:
        saved = datasets.load_from_disk(str(path))
        return _join_splits(saved if isinstance(saved, datasets.DatasetDict) else {UNSPLIT: saved})
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"Cannot read the saved dataset in {path}: {error}") from error


def _read_csv(path: Path) -> datasets.Dataset:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"Cannot read {path} as a comma-separated file in UTF-8: {error}") from error
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise UserError(f"{path}: row {number} has more fields than the header {columns}. Quote commas.")
    # An empty field means that nothing is known.
    features = datasets.Features({name: datasets.Value("string") for name in columns})
    return datasets.Dataset.from_dict({name: [row[name] or None for row in rows] for name in columns}, features)
