"""How far the cells of a study are, and who writes them.

The files of a cell decide: `study_cell.yaml`, the configuration that was asked for when it began; `results.json`, with
the configuration that was run; and `log.txt`. A lock on the log lasts as long as any process of the cell, also if the
study that started it was killed, because they all inherit the open file: no cell is ever written twice at once.
"""

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from hf_utils.arguments.run_options import differing_options
from hf_utils.config_files import read_config
from hf_utils.report.run_folders import CELL_FILE, RESULTS_FILE

LOG_FILE = "log.txt"
FINISHED, BEGUN, MISSING, RUNNING, CHANGED = "finished", "begun", "missing", "running", "other configuration"
_LONGEST_LISTING = 4


def find_state(folder: Path, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[str, str]:
    """Return how far the cell in `folder` is, or that a process is writing it, and details where there are any."""
    return (RUNNING, "by another process") if is_locked(folder) else read_state(folder, config, defaults)


def read_state(folder: Path, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[str, str]:
    """Return how far the files of a cell are, and details where there are any.

    Args:
        folder: of the cell.
        config: what the cell asks for.
        defaults: what an option was, if the configuration of a run does not know it yet.
    """
    try:
        results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        begun_with, complete = results["config"], results["complete"]
    except (OSError, ValueError, KeyError, TypeError):
        complete = False
        if not (folder / CELL_FILE).is_file():
            return MISSING, ""
        begun_with = read_config(folder / CELL_FILE)
    if differences := differing_options({**defaults, **begun_with}, config):
        listed = [f"{name}: {old} -> {new}" for name, (old, new) in list(differences.items())[:_LONGEST_LISTING]]
        more = len(differences) - len(listed)
        return CHANGED, ", ".join(listed) + (f" and {more} more" if more else "")
    return (FINISHED, "") if complete else (BEGUN, "continues from its last checkpoint")


def lock_log(folder: Path) -> BinaryIO | None:
    """Return the log of a folder, locked for as long as it or a copy of it is open; None if it is locked."""
    folder.mkdir(parents=True, exist_ok=True)
    log = open(folder / LOG_FILE, "ab")
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.close()
        return None
    return log


def is_locked(folder: Path) -> bool:
    """Return whether a process of this folder's cell is alive."""
    if not (folder / LOG_FILE).is_file():
        return False
    log = lock_log(folder)
    if log is None:
        return True
    log.close()
    return False
