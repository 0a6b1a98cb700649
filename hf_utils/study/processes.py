"""Running the commands of a study: output to a log, one line on the terminal, nothing left behind when interrupted.

How far the cells of a study are, and who writes them.

The files of a cell decide: `study_cell.yaml`, the configuration that was asked for when it began; `results.json`, with
the configuration that was run; and `log.txt`. A lock on the log lasts as long as any process of the cell, also if the
study that started it was killed, because they all inherit the open file: no cell is ever written twice at once.
"""

import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
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


# What the first word of a command means here: the programs of this environment, also where it is not activated.
_PROGRAMS = {
    "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"],
    "python": [sys.executable],
}
_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 20
_TAIL_BYTES = 16_000
_LINES_OF_A_FAILURE = 5


def run_logged(command: Sequence[str], folder: Path, log: BinaryIO, title: str) -> int:
    """Run a command, its output into the locked `log` of `folder`, and return its exit code.

    On KeyboardInterrupt the command and all that it started are interrupted, too, and waited for.
    """
    program, *rest = command
    log.write(f"\n$ {' '.join(command)}\n".encode())
    log.flush()
    started = time.monotonic()
    process = subprocess.Popen(
        [*_PROGRAMS.get(program, [program]), *rest],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a group of its own, so that all of it can be stopped
    )
    try:
        while process.poll() is None:
            _show(f"{title}  {format_clock(time.monotonic() - started)}  {last_line(folder)}", lasting=False)
            time.sleep(_POLL_SECONDS)
    except BaseException:
        _stop(process)
        raise
    return process.returncode


def wait_for_lock(folder: Path, title: str) -> BinaryIO:
    """Return the locked log of `folder` as soon as the process that holds it has ended."""
    started = time.monotonic()
    while (log := lock_log(folder)) is None:
        _show(f"{title}  waiting for another process, {format_clock(time.monotonic() - started)}", lasting=False)
        time.sleep(_POLL_SECONDS)
    return log


def last_line(folder: Path) -> str:
    """Return the last line of the log in `folder`, as a terminal would show it: progress bars overwrite themselves."""
    lines = _read_tail(folder).replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def failure_lines(folder: Path) -> str:
    """Return what the log in `folder` says of a failure: our message to the user if there is one, else its end."""
    lines = [line.rsplit("\r", 1)[-1] for line in _read_tail(folder).split("\n")]
    lines = [line for line in lines if line.strip()]
    messages = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    if not messages:
        return "\n".join(lines[-_LINES_OF_A_FAILURE:])
    # After our message the launcher adds a traceback of its own.
    return "\n".join(itertools.takewhile(lambda line: not line.startswith("Traceback"), lines[messages[-1] :]))


def report_line(text: str) -> None:
    """Print a line that stays."""
    _show(text, lasting=True)


def _show(text: str, *, lasting: bool) -> None:
    """Print a line; one that does not last is overwritten by the next, and only a terminal shows it."""
    terminal = sys.stdout.isatty()
    if lasting:
        print(f"\r\033[K{text}" if terminal else text, flush=True)
    elif terminal:
        width = os.get_terminal_size(sys.stdout.fileno()).columns
        print(f"\r\033[K{''.join(filter(str.isprintable, text))[: width - 1]}", end="", flush=True)


def _read_tail(folder: Path) -> str:
    with open(folder / LOG_FILE, "rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return log.read().decode("utf-8", errors="replace")


def format_clock(seconds: float) -> str:
    """Return hours, minutes and seconds, such as 1:02:03."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _stop(process: subprocess.Popen) -> None:
    """End a process and its group: asked politely first, because an interrupted run can end cleanly."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _PATIENCE_SECONDS
        try:
            os.killpg(process.pid, number)
            while time.monotonic() < deadline:
                process.poll()  # a child that nobody waits for stays in its group
                os.killpg(process.pid, 0)
                time.sleep(_POLL_SECONDS)
        except ProcessLookupError:
            return
