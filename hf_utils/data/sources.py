"""Where clips come from: a Hub id, a folder of genre folders, a CSV, a saved dataset, a folder of Parquet files.

Every reader gives the columns as they came, and the source's own names of splits. Nothing is decoded, and nothing of
`datasets` that needs FFmpeg is used (its `audiofolder` does).
"""

import fnmatch
import glob
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import huggingface_hub
import pyarrow.parquet
from datasets.exceptions import DatasetsError
from datasets.packaged_modules.parquet.parquet import Parquet
from huggingface_hub.errors import HfHubHTTPError

from hf_utils.data.audio_folders import holds_audio, read_audio_folder
from hf_utils.data.audio_lists import list_files
from hf_utils.data.columns import join_facts, read_texts
from hf_utils.data.split_names import find_split_in_path
from hf_utils.data.text_tables import read_csv
from hf_utils.errors import UserError
from hf_utils.files import CARD_FILE, find_lost_shards
from hf_utils.hub.licenses import read_metadata

logger = logging.getLogger(__name__)

# Loading scripts that `datasets` >= 4 refuses, and Parquet copies of the same clips.
SCRIPT_DATASETS = {"marsyas/gtzan": "sanchit-gandhi/gtzan"}

# The name for files that belong to no split, where `datasets` wants one.
UNSPLIT = "unsplit"

# Rows of a dataset, and the split that they are in.
_Parts = Sequence[tuple[str, datasets.Dataset]]

# The names that a file's ClassLabel columns give to numbers.
_LabelLists = tuple[tuple[str, tuple[str, ...]], ...]


class Source(NamedTuple):
    """Clips as they came.

    Attributes:
        facts: N rows of flat columns, in memory.
        files: N rows of the other columns, such as audio, on disk; None if there are none. No column is ever added to
            it: `datasets` 5.2 cannot do that twice where all columns added first were removed.
        splits: N names, as the source spells them, or None.
        folder: where relative paths start; None for the Hub.
    """

    facts: datasets.Dataset
    files: datasets.Dataset | None
    splits: list[str | None]
    folder: Path | None

    @property
    def features(self) -> datasets.Features:
        """The types of all columns."""
        return datasets.Features({**(self.files.features if self.files else {}), **self.facts.features})


def read_source(source: str, *, config_name: str | None, revision: str | None, token: str | None) -> Source:
    """Return the clips of `source`. An existing path wins over a Hub id of that name.

    Raises:
        UserError: the source does not exist, cannot be reached, is unfinished, or is none of the kinds.
    """
    path = Path(os.path.abspath(os.path.expanduser(source)))
    if not path.exists():
        is_file = path.suffix in (".csv", ".tsv", ".parquet")
        if source.startswith((".", "~", os.sep)) or source.count("/") > 1 or is_file:
            raise UserError(f"No such folder or file: {source} (looked in {Path.cwd()}).")
        return _join(_read_hub(source, config_name, revision, token), source, None)
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
        return _join(_read_parquet(path, parquet_files), str(path), path if path.is_dir() else path.parent)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _join([(UNSPLIT, read_csv(path))], str(path), path.parent)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _join(_read_saved(path), str(path), path)
    if path.is_dir():
        return _join([(UNSPLIT, read_audio_folder(path))], str(path), path)
    raise UserError(f"{path} is a file, but no CSV and no Parquet file. Give a folder, a .csv or a Hub id.")


def _read_hub(source: str, config_name: str | None, revision: str | None, token: str | None) -> _Parts:
    if copy := SCRIPT_DATASETS.get(source.lower()):
        raise UserError(
            f"{source} is a loading script, which `datasets` >= 4 cannot run. Use the Parquet copy {copy} instead, "
            "or a folder of genre folders."
        )
    try:
        builder = datasets.load_dataset_builder(source, config_name, revision=revision, token=token)
        parts = _read_by_labels(builder, token)
        if parts is None:
            builder.download_and_prepare()
            parts = [*builder.as_dataset().items()]
    except (DatasetsError, HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"Cannot load {source!r} from the Hub: {error}\n{_advise(source, error)}") from error
    return parts


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


def _join(parts: _Parts, source: str, folder: Path | None) -> Source:
    """Return all rows one after the other. A `split` column of the parts themselves comes before their names."""
    facts = join_facts(parts, source)
    on_disk = [part.with_format(None) for _, part in parts]
    on_disk = [
        part.remove_columns([name for name in part.column_names if name in facts.column_names]) for part in on_disk
    ]
    files = None
    try:
        if any(part.column_names for part in on_disk):
            files = datasets.concatenate_datasets(on_disk)
    except ValueError as error:
        raise UserError(f"{source}: the columns of its parts do not fit: {error}") from error
    if "split" in facts.column_names:
        splits = read_texts(facts, "split", source)
    else:
        splits = [None if name == UNSPLIT else str(name) for name, part in parts for _ in range(len(part))]
    return Source(facts, files, splits, folder)


def _find_parquet(path: Path, config_name: str | None) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".parquet" else []
    if (path / "data").is_dir() and (path / "config.json").is_file():
        if not (path / CARD_FILE).is_file():
            raise UserError(
                f"{path} is unfinished: it has a config.json, but no {CARD_FILE}, which is written when all shards "
                "are there. Run the command that makes it again; it goes on where it stopped."
            )
        if lost := find_lost_shards(path):
            raise UserError(
                f"{path} is unfinished: of the files in data, {lost} are missing. Run the command that makes it "
                "again, or copy the whole folder."
            )
    declared = _read_configurations(path)
    is_made_here = (path / "config.json").is_file()  # of corruptions each is one, and all together are a source, too
    if config_name is None and len(declared) > 1 and not is_made_here:
        config_name = next((name for name, (_, is_default) in declared.items() if is_default), None)
        if config_name is None:
            raise UserError(
                f"{path} has several configurations, by its {CARD_FILE}: {', '.join(declared)}. Name one by "
                "--dataset_config_name, or give the folder of one."
            )
        logger.info("%s: configuration %s, which its %s has as the default.", path, config_name, CARD_FILE)
    if config_name in declared:
        patterns, _ = declared[config_name]
        files = [
            file
            for file in list_files(path, {".parquet"})[0]
            if any(fnmatch.fnmatchcase(file.relative_to(path).as_posix(), pattern) for pattern in patterns)
        ]
    else:
        files = list_files(path / (config_name or ""), {".parquet"})[0]
    if files and list_files(path)[0] and not any(holds_audio(file) for file in files):
        return []  # tables of features beside audio files, or their metadata
    return files


def _read_configurations(path: Path) -> dict[str, tuple[list[str], bool]]:
    """Return {name: (patterns of its files, whether it is the default)} of the configurations that a card declares."""
    card = path / CARD_FILE
    entries = read_metadata(card).get("configs") if card.is_file() else None
    found = {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and "config_name" in entry:
            name, files = str(entry["config_name"]), entry.get("data_files")
            patterns = [
                path
                for item in (files if isinstance(files, list) else [files])
                for part in ([item.get("path")] if isinstance(item, dict) else [item])
                for path in (part if isinstance(part, list) else [part])
                if isinstance(path, str)
            ]
            folder = str(entry.get("data_dir") or name).strip("./")
            patterns = [pattern.removeprefix("./") for pattern in patterns] or [f"{folder}/*"]
            found[name] = patterns, bool(entry.get("default")) or name == "default"
    return found


def _read_parquet(path: Path, files: list[Path]) -> _Parts:
    splits: dict[str, list[str]] = {}
    for file in files:
        inner = file.relative_to(path.parent).with_suffix("").parts
        split = find_split_in_path(inner[1:] or inner) or UNSPLIT
        splits.setdefault(split, []).append(str(file))
    try:
        return _load_parquet(splits, {file: _read_label_lists(file) for file in map(str, files)})
    except (DatasetsError, OSError, ValueError) as error:
        raise UserError(f"Cannot read the Parquet files in {path}: {error.__cause__ or error}") from error


def _load_parquet(
    splits: Mapping[str, Sequence[str]], lists: Mapping[str, _LabelLists], token: str | None = None
) -> _Parts:
    """Return (split, its rows) of Parquet files, apart for files whose labels have other lists of names.

    `datasets` reads all files by the list of the first: another's label 1 would become the first's genre 1.
    """
    parts = []
    for own in dict.fromkeys(lists.values()):
        chosen = {split: [file for file in files if lists[file] == own] for split, files in splits.items()}
        # Escaped, since `datasets` reads brackets in a path as a pattern.
        escaped = {split: [glob.escape(file) for file in files] for split, files in chosen.items() if files}
        parts += datasets.load_dataset("parquet", data_files=escaped, token=token).items()
    return parts


def _read_label_lists(file) -> _LabelLists:
    """Return the lists of names in the header of a Parquet file."""
    return _list_labels(datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file)))


def _list_labels(features: datasets.Features) -> _LabelLists:
    return tuple(
        (column, tuple(feature.names))
        for column, feature in sorted(features.items())
        if isinstance(feature, datasets.ClassLabel)
    )


def _read_by_labels(builder: datasets.DatasetBuilder, token: str | None) -> _Parts | None:
    """Return (split, its rows) of a dataset on the Hub by the lists of its files; None if they have only one."""
    if not isinstance(builder, Parquet) or not builder.config.data_files:
        return None
    splits = {str(split): [*files] for split, files in builder.config.data_files.items()}
    system = huggingface_hub.HfFileSystem(token=token)
    lists = {}
    for file in itertools.chain.from_iterable(splits.values()):
        with system.open(file) if file.startswith("hf://") else open(file, "rb") as content:
            lists[file] = _read_label_lists(content)
    card = {_list_labels(builder.info.features)} if builder.info.features else set()
    own = set(lists.values())
    return _load_parquet(splits, lists, token) if len(own | card if own != {()} else own) > 1 else None


def _read_saved(path: Path) -> _Parts:
    try:
        saved = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"Cannot read the saved dataset in {path}: {error}") from error
    return [*saved.items()] if isinstance(saved, datasets.DatasetDict) else [(UNSPLIT, saved)]
