"""Run a study: every model with every training arm and seed. What is finished is left as it is, what is begun goes on.

    python -m hf_utils.study configs/study/gtzan.yaml --dry_run          # the runs, their commands, time and disk
    python -m hf_utils.study configs/study/gtzan.yaml                    # runs what is missing, one after the other
    python -m hf_utils.study configs/study/gtzan.yaml --print_commands > jobs.txt     # one line per missing run

Start it in the project's folder; `hf_utils/study/file.py` shows what a study file holds. The same command continues
after a kill. Several of them share the work: each takes runs that no other has.
"""

import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hf_utils.config_files import write_config
from hf_utils.errors import UserError
from hf_utils.files import file_stem, write_atomically
from hf_utils.launch import module_parser
from hf_utils.report.run_folders import CELL_FILE
from hf_utils.study.cells import (
    CHANGED,
    FINISHED,
    MISSING,
    RUNNING,
    SCRIPT,
    Cell,
    describe_costs,
    find_state,
    make_cells,
    read_cell_state,
    read_configs,
)
from hf_utils.study.file import Preparation, Study, read_study
from hf_utils.study.power import describe_power
from hf_utils.study.processes import (
    LOG_FILE,
    failure_lines,
    format_clock,
    lock_log,
    report_line,
    run_logged,
    wait_for_lock,
)

FAILED = "failed"
_DONE_FILE = "done.txt"


def run_study(study: Study) -> int:
    """Run what is missing; return 0 if every run is finished afterwards, else 1."""
    cells = make_cells(study)
    configs, defaults = read_configs(cells)
    for line in describe_power(study, cells, configs):
        report_line(line)
    failures = [item.folder for item in study.prepare if not _prepare(study, item)]
    outcomes, postponed = {}, []
    for index, (cell, config) in enumerate(zip(cells, configs, strict=True)):
        title = f"[{index + 1}/{len(cells)}] {cell.folder.relative_to(study.output_dir)}"
        outcomes[cell] = _run_cell(cell, config, defaults, title, wait=False)
        if outcomes[cell] == RUNNING:
            postponed.append((cell, config, title))
    for cell, config, title in postponed:
        outcomes[cell] = _run_cell(cell, config, defaults, title, wait=True)
    counts = Counter(outcomes.values())
    report_line(f"{len(cells)} runs: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    for folder in [*failures, *(cell.folder for cell, outcome in outcomes.items() if outcome == FAILED)]:
        report_line(f"  failed: {folder}")
    report_line(f"Report: python -m hf_utils.report {shlex.quote(str(study.output_dir))} --output report")
    return 1 if failures or set(outcomes.values()) != {FINISHED} else 0


def _prepare(study: Study, preparation: Preparation) -> bool:
    """Make a dataset folder unless this command has made it; return whether it is there.

    Whether a folder that is there is what the command makes, only the command can tell: ours ends at once, or refuses.
    """
    if _is_prepared(study, preparation):
        return True
    folder = _preparation_log(study, preparation)
    title = f"prepare {preparation.folder}"
    with wait_for_lock(folder, title) as log:
        if _is_prepared(study, preparation):
            return True
        report_line(f"{title}  begins")
        code = run_logged(preparation.command, folder, log, title)
        if code == 0 and preparation.folder.is_dir():
            write_atomically(folder / _DONE_FILE, shlex.join(preparation.command))
            return True
    _report_failure(title, f"exit code {code}" if code else f"there is no {preparation.folder}", folder)
    return False


def _is_prepared(study: Study, preparation: Preparation) -> bool:
    """Return whether exactly this command has made the folder in this study."""
    done = _preparation_log(study, preparation) / _DONE_FILE
    by_command = done.is_file() and done.read_text(encoding="utf-8") == shlex.join(preparation.command)
    return by_command and preparation.folder.is_dir()


def _preparation_log(study: Study, preparation: Preparation) -> Path:
    return study.output_dir / "prepare" / file_stem(str(preparation.folder))


def _run_cell(cell: Cell, config: dict, defaults: dict, title: str, *, wait: bool) -> str:
    """Bring a cell to its end unless it is there; return its state, or FAILED."""
    log = wait_for_lock(cell.folder, title) if wait else lock_log(cell.folder)
    if log is None:
        report_line(f"{title}  another process is writing it: later")
        return RUNNING
    with log:
        state, details = read_cell_state(cell.folder, config, defaults)
        if state == FINISHED:
            return state
        if state == CHANGED:
            report_line(f"{title}  holds a run of another configuration: {details}. Move it away, or study elsewhere.")
            return state
        report_line(f"{title}  {details or 'begins'}")
        write_config(cell.folder / CELL_FILE, config)
        started = time.monotonic()
        code = run_logged(cell.command, cell.folder, log, title)
        state, _ = read_cell_state(cell.folder, config, defaults)
    if code == 0 and state == FINISHED:
        report_line(f"{title}  finished after {format_clock(time.monotonic() - started)}")
        return state
    _report_failure(title, f"exit code {code}" if code else "no complete results", cell.folder)
    return FAILED


def _report_failure(title: str, reason: str, folder: Path) -> None:
    lines = failure_lines(folder).replace("\n", "\n    ")
    report_line(f"{title}  FAILED: {reason}. From {folder / LOG_FILE}:\n    {lines}")


def describe_study(study: Study) -> str:
    """Return the data and runs that are missing with their commands, and what they cost as far as it is known."""
    cells = make_cells(study)
    configs, defaults = read_configs(cells)
    states = [find_state(cell.folder, config, defaults) for cell, config in zip(cells, configs, strict=True)]
    lines = []
    for item in study.prepare:
        lines += _describe_step(f"prepare {item.folder}", *_preparation_state(study, item), item.command)
    for cell, state in zip(cells, states, strict=True):
        lines += _describe_step(str(cell.folder.relative_to(study.output_dir)), *state, cell.command)
    unprepared = [str(item.folder) for item in study.prepare if not _is_prepared(study, item)]
    first = [f"To be made first: {', '.join(unprepared)}"] if unprepared else []
    costs = describe_costs(cells, [state for state, _ in states])
    return "\n".join([*lines, "", *first, *costs, *describe_power(study, cells, configs)])


def _preparation_state(study: Study, item: Preparation) -> tuple[str, str]:
    return (FINISHED if _is_prepared(study, item) else MISSING), ""


def _describe_step(name: str, state: str, details: str, command: Sequence[str]) -> list[str]:
    """Return a line with the state of a step, and one with its command if it is still to be run."""
    line = f"{name}: {state}{f' ({details})' if details else ''}"
    return [line] if state == FINISHED else [line, f"    {shlex.join(command)}"]


def print_commands(study: Study) -> None:
    """Print the command of every run that is not finished, and on standard error what must be done before."""
    cells = make_cells(study)
    configs, defaults = read_configs(cells)
    for item in study.prepare:
        if not _is_prepared(study, item):
            print(f"first: {shlex.join(item.command)}", file=sys.stderr)
    for cell, config in zip(cells, configs, strict=True):
        state, details = find_state(cell.folder, config, defaults)
        if state in (CHANGED, RUNNING):
            print(f"left out: {cell.folder}: {state} ({details})", file=sys.stderr)
        elif state != FINISHED:
            print(shlex.join(cell.command))


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    parser = module_parser("hf_utils.study", __doc__)
    parser.add_argument("file", metavar="FILE.yaml", help="the study file")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--dry_run", action="store_true", help="show runs, commands, time and disk; run nothing")
    action.add_argument("--print_commands", action="store_true", help="print one command per missing run; run nothing")
    args = parser.parse_args(argv)
    try:
        study = read_study(args.file)
        if not Path(SCRIPT).is_file():
            raise UserError(f"no {SCRIPT} here: start the study in the project's folder")
        if args.dry_run:
            print(describe_study(study))
        elif args.print_commands:
            print_commands(study)
        else:
            return run_study(study)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        report_line("Interrupted; the same command continues.")
        return 130
    return 0


def interrupt(number, frame):
    """Handle a signal as Ctrl-C."""
    raise KeyboardInterrupt
