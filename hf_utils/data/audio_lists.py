"""Which audio files there are in a folder, and what is passed over there."""

import logging
import os
from collections import Counter
from collections.abc import Set
from pathlib import Path

from hf_utils.sound_files import AUDIO_SUFFIXES

logger = logging.getLogger(__name__)

_LEFTOVERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "desktop.ini"}


def list_files(folder: Path, suffixes: Set[str] = AUDIO_SUFFIXES) -> tuple[list[Path], Counter]:
    """Return the files below `folder` with one of `suffixes`, sorted, and counts of the others by suffix.

    Hidden files and folders are passed over, and what archives of other systems leave behind (`__MACOSX`). Links to
    folders are followed, but for those that lead back to where they lie.
    """
    found, others = [], Counter()
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not (is_hidden(name) or _leads_back(Path(parent, name), folder))]
        for file in (Path(parent, name) for name in names if not is_hidden(name)):
            if file.suffix.lower() in suffixes:
                found.append(file)
            else:
                others[file.suffix.lower() or file.name] += 1
    return sorted(found), others


def report_others(folder: Path, others: Counter) -> None:
    """Log how many files of which suffixes below `folder` are passed over, if any are: `others` of `list_files`."""
    if others:
        suffixes = ", ".join(f"{suffix} ({count})" for suffix, count in sorted(others.items()))
        total = others.total()
        counted = "1 file that is no audio is" if total == 1 else f"{total} files that are no audio are"
        logger.warning("%s: %s ignored: %s.", folder, counted, suffixes)


def _leads_back(path: Path, root: Path) -> bool:
    """Return whether a link leads to a folder that it lies in, on the way from `root`."""
    if not path.is_symlink():
        return False
    target = path.resolve()
    passed = (parent for parent in path.parents if parent.is_relative_to(root))
    return any(parent.resolve().is_relative_to(target) for parent in passed)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is none of the user's: hidden, or left by another system's archive or trash."""
    return name.startswith(".") or name in _LEFTOVERS
