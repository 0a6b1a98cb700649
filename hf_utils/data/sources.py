"""Where clips come from: a Hub id, a folder of genre folders, a CSV, a saved dataset, a folder of Parquet files.

Every reader gives the columns as they came, and the source's own names of splits. Nothing is decoded, and nothing of
`datasets` that needs FFmpeg is used (its `audiofolder` does).
"""

import csv
import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import datasets
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError

from hf_utils.data.audio_folders import SPLIT_SPELLINGS, list_files, read_genre_folders
from hf_utils.data.columns import read_texts
from hf_utils.errors import UserError

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
