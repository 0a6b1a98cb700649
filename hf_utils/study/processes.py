"""Running the commands of a study: output to a log, one line on the terminal, nothing left behind when interrupted.

The log is locked for as long as any process of the command lives, also if the study that started it was killed,
because they all inherit the open file: no folder is ever written twice at once.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from hf_utils.launch import lock_file

LOG_FILE = "log.txt"

# What the first word of a command means here: the programs of this environment, also where it is not activated.
_PROGRAMS = {
    "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"],
    "python": [sys.executable],
}
_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 20
_TAIL_BYTES = 16_000
_LINES_OF_A_FAILURE = 5


def lock_log(folder: Path) -> BinaryIO | None:
    """Return the log of a folder, made if it is not there, locked and open to append; None if it is locked."""
    folder.mkdir(parents=True, exist_ok=True)
    return lock_file(folder / LOG_FILE)


def is_locked(folder: Path) -> bool:
    """Return whether a process writes the log of this folder."""
    if not (folder / LOG_FILE).is_file():
        return False
    log = lock_log(folder)
    if log is None:
        return True
    log.close()
    return False


def wait_for_lock(folder: Path, title: str) -> BinaryIO:
    """Return the locked log of `folder` as soon as the process that holds it has ended."""
    started = time.monotonic()
    while (log := lock_log(folder)) is None:
        _show(f"{title}  waiting for another process, {format_clock(time.monotonic() - started)}", lasting=False)
        time.sleep(_POLL_SECONDS)
    return log


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
        start_new_session=True,  # a new group, so that all of it can be stopped
    )
    try:
        while process.poll() is None:
            _show(f"{title}  {format_clock(time.monotonic() - started)}  {last_line(folder)}", lasting=False)
            time.sleep(_POLL_SECONDS)
    except BaseException:
        _stop(process)
        raise
    return process.returncode


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
    # After our message the launcher adds its traceback.
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
