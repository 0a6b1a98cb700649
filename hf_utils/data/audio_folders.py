"""Audio files on disk: a folder per genre, and perhaps a folder per split above those."""

import logging
import os
from collections import Counter
from collections.abc import Set
from pathlib import Path

import datasets

from hf_utils.audio import AUDIO_SUFFIXES, READABLE_SUFFIXES
from hf_utils.errors import UserError

logger = logging.getLogger(__name__)
_LEFTOVERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "desktop.ini"}

# How people write the names of the three splits, in lower case.
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
        files, others = list_files(genre)
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
            f"No clips in {path}. Expected a folder per genre with audio files "
            f"({' '.join(sorted(READABLE_SUFFIXES))}), found {len(folders)} folders and {ignored.total()} other files."
        )
    features = datasets.Features({name: datasets.Value("string") for name in ("audio", "label", "split")})
    try:
        return datasets.Dataset.from_list(rows, features)
    except UnicodeEncodeError as error:  # names from before UTF-8, which no table can hold
        raise UserError(f"Rename this file, whose name is not valid UTF-8: {error.object!r}.") from error


def _list_folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry.name))


def list_files(folder: Path, suffixes: Set[str] = AUDIO_SUFFIXES) -> tuple[list[Path], Counter]:
    """Return the files below `folder` with one of `suffixes`, sorted, and counts of the others by suffix.

    Hidden files and folders are passed over, and what archives of other systems leave behind (`__MACOSX`). Links to
    folders are not followed.
    """
    found, others = [], Counter()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for file in (Path(parent, name) for name in names if not is_hidden(name)):
            if file.suffix.lower() in suffixes:
                found.append(file)
            else:
                others[file.suffix.lower() or file.name] += 1
    return sorted(found), others


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is none of the user's: hidden, or left by another system's archive or trash."""
    return name.startswith(".") or name in _LEFTOVERS
