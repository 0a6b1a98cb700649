"""Audio files on disk: which genre, and which split, the folders or the metadata files around them give.

    jazz/a.wav                                       a folder per genre
    train/jazz/a.wav, jazz/train/a.wav               and folders of splits above or below them
    fold1/jazz/a.wav, Data/genres_original/jazz/...  folds, and folders around all genres, are passed
    train/a.wav + metadata.csv, .jsonl or .parquet   the `audiofolder` of `datasets`: `file_name` and more columns

What fits none of these is refused: a folder called `train` or `fold1` is never taken for a genre.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow.parquet

from hf_utils.data.audio_lists import is_hidden, list_files, report_others
from hf_utils.data.columns import AUDIO_NAMES, LABEL_NAMES, find_by_name, is_flat, join_facts, read_texts
from hf_utils.data.genre_spellings import spelling_key
from hf_utils.data.split_names import is_fold, read_split, warn_of_folds
from hf_utils.data.text_tables import read_csv, read_json_lines, resolve_paths, table_of_texts
from hf_utils.errors import UserError
from hf_utils.listing import listing
from hf_utils.sound_files import AUDIO_SUFFIXES

logger = logging.getLogger(__name__)

# A folder whose name has only such words is around genres, and is none; of the first few this is sure.
_SURELY_AROUND = {"data", "dataset", "datasets", "genre", "genres", "gtzan"}
_AROUND = _SURELY_AROUND | set(
    "archive audio audios clips files flac full large medium mp3 music ogg original raw small songs sounds tracks wav "
    "wavs".split()
)
_METADATA = {"metadata.csv": read_csv, "metadata.jsonl": read_json_lines}
_METADATA_PARQUET = "metadata.parquet"
_FILE_NAME = "file_name"
_CSV_ADVICE = "or list the files in a CSV with columns path,label[,split] and give that"

# Names of the folders below the dataset that an audio file lies in, from the outermost.
_Folders = tuple[str, ...]


def read_audio_folder(path: Path) -> datasets.Dataset:
    """Return the clips below a folder: columns audio, label, split and those of metadata files.

    Raises:
        UserError: there is no audio, or the folders around it have no clear meaning.
    """
    files, others = list_files(path)
    if not files:
        raise UserError(
            f"No clips in {path}. Expected a folder per genre with audio files "
            f"({' '.join(sorted(AUDIO_SUFFIXES))}), found {len(_list_folders(path))} folders and "
            f"{others.total()} other files."
        )
    described = [(file, table) for file in _find_metadata(path) if (table := _read_metadata(file)) is not None]
    try:
        table = _read_described(path, files, described) if described else _read_genres(path, files)
    except UnicodeEncodeError as error:  # names from before UTF-8, which no table can hold
        raise UserError(f"Rename this file, whose name is not valid UTF-8: {error.object!r}.") from error
    del others[".md"]  # the dataset's own page
    others -= Counter(file.suffix.lower() for file, _ in described)
    report_others(path, others)
    return table


def _list_folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry.name))


def _read_genres(path: Path, files: list[Path]) -> datasets.Dataset:
    """Return the clips with the genre and the split that their folders name."""
    beside = [file.name for file in files if file.parent == path]
    files = [file for file in files if file.parent != path]
    if not files:
        raise UserError(
            f"{path} holds {len(beside)} audio files ({listing(beside)}) and no folders of genres with audio. Sort "
            f"them into a folder per genre, {_CSV_ADVICE}.{_name_tables(path)}"
        )
    if beside:
        logger.warning("%s: %d audio files in no genre folder are left out: %s.", path, len(beside), listing(beside))
    folders = [file.relative_to(path).parts[:-1] for file in files]
    level, splits = _pass_outer(path, folders)
    genres = _name_genres(path, folders, level)
    splits = splits or _find_inner_splits(path, folders, level) or [None] * len(files)
    above = {path.joinpath(*parts[:level]) for parts in folders}
    empty = sorted({folder.name for parent in above for folder in _list_folders(parent)} - set(genres))
    if empty:
        logger.warning("%s: folders without audio files are not taken as genres: %s.", path, ", ".join(empty))
    return table_of_texts({"audio": [str(file) for file in files], "label": genres, "split": splits})


def _pass_outer(path: Path, folders: Sequence[_Folders]) -> tuple[int, list[str] | None]:
    """Return (at which level of the folders genres begin, the split of every file, if outer folders name it)."""
    level, splits = 0, None
    while True:
        reached = [parts for parts in folders if len(parts) > level]
        names = sorted({parts[level] for parts in reached})
        named_splits = [name for name in names if read_split(name)]
        if named_splits:
            strangers = [name for name in names if name not in named_splits]
            if splits or strangers or len(reached) < len(folders):
                place = listing(strangers) or "none of them"
                raise UserError(
                    f"{path}: beside the folders of splits ({listing(named_splits)}) there is audio in {place}. Keep "
                    f"only folders of splits there, {_CSV_ADVICE}."
                )
            splits = [parts[level] for parts in folders]
        elif names and all(is_fold(name) for name in names) and len(reached) == len(folders):
            warn_of_folds(names, path)
        elif len(names) == 1 and len(reached) == len(folders) and _is_around(names[0]):
            logger.warning("%s: genres are read from %s.", path, path.joinpath(*folders[0][: level + 1]))
        else:
            return level, splits
        level += 1


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+\d?", name.lower())


def _is_around(name: str) -> bool:
    return bool(_words(name)) and all(word in _AROUND for word in _words(name))


def _name_genres(path: Path, folders: Sequence[_Folders], level: int) -> list[str]:
    """Return the name of every file's folder at `level`. Raises UserError if those are no genres."""
    bare = sorted({"/".join(parts) for parts in folders if len(parts) == level})
    if bare:
        raise UserError(
            f"{path}: audio files lie in {listing(bare)} and in no folder of a genre; {bare[0]!r} is not taken for "
            f"one. Sort them into a folder per genre there, add a metadata.csv with columns {_FILE_NAME},genre, "
            f"{_CSV_ADVICE}.{_name_tables(path)}"
        )
    below: dict[str, set[str | None]] = {}
    for parts in folders:
        below.setdefault(parts[level], set()).add(parts[level + 1] if len(parts) > level + 1 else None)
    inner = {name for name in next(iter(below.values())) if name and not (is_fold(name) or _is_around(name))}
    only_folders = all(None not in names for names in below.values())
    around = [name for name, names in below.items() if _is_around(name) and None not in names]
    around = around if len(around) == len(below) else [name for name in around if _SURELY_AROUND & {*_words(name)}]
    same = len(below) > 1 and only_folders and len(inner) > 1 and len({frozenset(n) for n in below.values()}) == 1
    if around or (len(below) == 1 and only_folders) or (same and not any(read_split(name) for name in inner)):
        name = min(around or below)
        raise UserError(
            f"{path}: are the genres {listing(sorted(below))}, or the folders below, such as "
            f"{listing(sorted(below[name] - {None}))} in {name}? If those below, give {path.joinpath(name)}; else put "
            f"the files directly into their genre's folder, {_CSV_ADVICE}."
        )
    return [parts[level] for parts in folders]


def _find_inner_splits(path: Path, folders: Sequence[_Folders], level: int) -> list[str] | None:
    """Return the split of every file where each genre has folders of splits, else None."""
    inner = [parts[level + 1] if len(parts) > level + 1 else "" for parts in folders]
    splits = {name for name in inner if read_split(name)}
    if all(name in splits for name in inner):
        return inner
    if len({read_split(name) for name in splits}) > 1:
        outside = next("/".join(parts) for parts, name in zip(folders, inner, strict=True) if name not in splits)
        raise UserError(
            f"{path}: some genres have folders of splits ({listing(sorted(splits))}), but {outside} holds audio "
            f"outside them. Sort all files into splits or none, {_CSV_ADVICE}."
        )
    return None


def holds_audio(file: Path) -> bool:
    """Return whether a Parquet file has columns for audio files, and does not merely describe those beside it."""
    try:
        features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
    except (OSError, ValueError):
        return True  # for its reader to say
    if file.name.lower() == _METADATA_PARQUET and _FILE_NAME in features:
        return "audio" in features
    return bool(find_by_name(features, AUDIO_NAMES)) or not all(is_flat(feature) for feature in features.values())


def _find_metadata(path: Path) -> list[Path]:
    tables, _ = list_files(path, {".csv", ".jsonl", ".parquet"})
    found = [file for file in tables if file.name.lower() in (*_METADATA, _METADATA_PARQUET)]
    for folder, count in Counter(file.parent for file in found).items():
        if count > 1:
            names = [file.name for file in found if file.parent == folder]
            raise UserError(f"{folder} holds several metadata files: {', '.join(names)}. Keep one of them.")
    return found


def _read_metadata(file: Path) -> datasets.Dataset | None:
    """Return a metadata file with `audio` for its `file_name`; None, with a notice, where it has no such column."""
    if file.name.lower() == _METADATA_PARQUET:
        try:
            table = datasets.Dataset(pyarrow.parquet.read_table(file))
        except (OSError, ValueError) as error:
            raise UserError(f"Cannot read {file}: {error}") from error
    else:
        table = _METADATA[file.name.lower()](file)
    if _FILE_NAME not in table.column_names:
        found = ", ".join(table.column_names) or "no columns"
        logger.warning("%s is ignored, since it has no column %s; found %s.", file, _FILE_NAME, found)
        return None
    if "audio" in table.column_names:
        raise UserError(f"{file} has a column {_FILE_NAME} and a column audio. Rename or remove the second.")
    names = read_texts(table, _FILE_NAME, str(file))
    if None in names:
        raise UserError(f"{file}: row {names.index(None) + 1} below the header has no {_FILE_NAME}.")
    paths = [os.path.normpath(name) for name in resolve_paths(names, file.parent)]
    table = table.remove_columns(_FILE_NAME)
    return table.add_column("audio", paths, feature=datasets.Value("string"))


def _read_described(path: Path, files: list[Path], described: list[tuple[Path, datasets.Dataset]]) -> datasets.Dataset:
    """Return the rows of metadata files, with the split, and if need be the genre, that folders name."""
    table = join_facts([(str(file), part) for file, part in described], str(path))
    listed = [Path(name) for name in table["audio"]]
    if unlisted := sorted(set(files) - set(listed)):
        names = [file.relative_to(path).as_posix() for file in unlisted]
        logger.warning("%s: %d audio files are in no metadata and left out: %s.", path, len(names), listing(names))
    folders = [file.relative_to(path).parts[:-1] if file.is_relative_to(path) else () for file in listed]
    level, splits = _pass_outer(path, folders)
    if "split" not in table.column_names and splits:
        table = table.add_column("split", splits, feature=datasets.Value("string"))
    genres = [parts[level] if len(parts) > level else None for parts in folders]
    if label := find_by_name(table.column_names, LABEL_NAMES):
        _check_folders(path, listed, genres, read_texts(table, label[0], str(path)))
    elif None not in genres and len(set(genres)) > 1:
        table = table.add_column("label", genres, feature=datasets.Value("string"))
    return table


def _check_folders(path: Path, files: list[Path], genres: list[str | None], labels: list[str | None]) -> None:
    """Raise UserError where a file's folder has the name of another genre than its metadata give it."""
    keys = {spelling_key(label) for label in labels if label}
    for file, genre, label in zip(files, genres, labels, strict=True):
        if genre and label and spelling_key(genre) in keys and spelling_key(genre) != spelling_key(label):
            raise UserError(
                f"{path}: the metadata give {file.relative_to(path)} the genre {label!r}, but it lies in the folder "
                f"{genre}. Correct one of them."
            )


def _name_tables(path: Path) -> str:
    """Return a hint at CSV files that may hold the labels."""
    tables, _ = list_files(path, {".csv", ".tsv"})
    return (
        f" If one of these lists them, give that file: {listing([str(table) for table in tables])}." if tables else ""
    )
