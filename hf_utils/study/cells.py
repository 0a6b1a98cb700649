"""The cells of a study: each one's command and configuration, how far it is, and what the missing ones will cost.

How far a cell is, its files say: `study_cell.yaml`, the configuration that was asked for when it began, and
`results.json`, with the configuration that was run. Costs are known from finished runs of the same model only: nothing
is guessed.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hf_utils.arguments.precedence import override
from hf_utils.arguments.run_options import differing_options
from hf_utils.config_files import read_config
from hf_utils.errors import UserError
from hf_utils.files import RESULTS_FILE, to_json
from hf_utils.listing import listing
from hf_utils.report.run_folders import CELL_FILE
from hf_utils.study.file import Study, option_flags
from hf_utils.study.processes import is_locked

SCRIPT = "run_classification.py"
FINISHED, BEGUN, MISSING, RUNNING, CHANGED = "finished", "begun", "missing", "running", "other configuration"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a study: its place in the table, its folder, and the options of script and launcher."""

    model: str
    arm: str
    folder: Path
    arguments: tuple[str, ...]
    launch: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """The command line, as it can be typed."""
        return ["accelerate", "launch", *self.launch, SCRIPT, *self.arguments]


def make_cells(study: Study) -> list[Cell]:
    """Return the cells, seeds outermost: the table is complete, with fewer seeds, long before the study is."""
    return [
        _make_cell(study, model, arm, seed, fold)
        for seed in study.seeds
        for fold in study.folds
        for model in study.models
        for arm in study.arms
    ]


def _make_cell(study, model, arm, seed, fold) -> Cell:
    name = f"seed-{seed}" if fold is None else f"seed-{seed}-fold-{fold}"
    folder = study.output_dir / model.name / arm.name / name
    options = dict(study.options)
    for part in (model, arm):
        options = override(options, part.options, f"in {part.name}")
    options = override(options, study.seed_options.get(seed, {}), f"in seed_options: {seed}")
    options["seed"] = seed
    if fold is not None:
        options["fold"] = fold
    options |= {"run_name": f"{model.name}/{arm.name}", "output_dir": str(folder), "resume_from_checkpoint": "auto"}
    options["overwrite"] = True  # where no checkpoint can be continued, as under save_only_model, it begins again
    arguments = (*model.configs, *arm.configs, *option_flags(options))
    return Cell(model.name, arm.name, folder, arguments, study.launch)


def read_configs(cells: Sequence[Cell]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the merged configuration of every cell, as results.json will hold it, and that of no option at all.

    The options are parsed in another process: the study itself holds neither torch nor a GPU.

    Raises UserError with the mistakes of all cells, each once, or if arms of one model train for different lengths.
    """
    bare = ("--model_name_or_path", "unknown", "--resume_from_checkpoint", "auto")
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        *configs, defaults = pool.submit(parse_options, [*(cell.arguments for cell in cells), bare]).result()
    if mistakes := {config: None for config in configs if isinstance(config, str)}:
        raise UserError("\n".join(mistakes))
    check_steps(cells, configs)
    return configs, defaults


def parse_options(arguments: Sequence[Sequence[str]]) -> list[dict[str, Any] | str]:
    """Return, for each command line, the configuration with every default, or the message of what is wrong."""
    from hf_utils.arguments.run_arguments import RunArguments

    logging.getLogger("hf_utils").setLevel(logging.ERROR)  # each run warns by itself
    parsed = []
    for words in arguments:
        try:
            parsed.append(json.loads(json.dumps(to_json(RunArguments.parse(words).config()))))
        except UserError as error:
            parsed.append(str(error))
    return parsed


def check_steps(cells: Sequence[Cell], configs: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError unless all arms of a model train for the same number of optimiser steps.

    Otherwise an arm with more clips would also train longer, and nobody could tell the two apart.
    """
    for model in {cell.model: None for cell in cells}:
        own = [(cell, config) for cell, config in zip(cells, configs, strict=True) if cell.model == model]
        if len({cell.arm for cell, _ in own}) < 2:
            continue
        steps = {cell.arm: count_steps(config) for cell, config in own}
        if len(set(steps.values())) > 1 or min(steps.values()) < 1:
            counts = ", ".join(f"{arm}: {count if count > 0 else 'epochs'}" for arm, count in steps.items())
            raise UserError(
                f"{model}: arms must train for the same number of optimiser steps, found {counts}. Give max_steps in "
                "the study's options or in every arm."
            )
        if any(option["early_stopping_patience"] for _, config in own for option in expand_options(config)):
            raise UserError(
                f"{model}: early_stopping_patience stops arms after different numbers of steps; the checkpoint that "
                "is best on validation is kept anyway. Give early_stopping_patience: 0 in the study's options."
            )


def count_steps(config: Mapping[str, Any]) -> int:
    """Return the number of optimiser steps of a run, those of all its stages; -1 where epochs are counted."""
    steps = [options["max_steps"] for options in expand_options(config)]
    return sum(steps) if min(steps) > 0 else -1


def expand_options(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the options of every stage of a run: one stage, if it has none."""
    return [override(config, changes, f"in stages[{i}]") for i, changes in enumerate(config["stages"] or [{}])]


def find_state(folder: Path, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[str, str]:
    """Return how far the cell in `folder` is, or that a process is writing it, and details where there are any."""
    return (RUNNING, "by another process") if is_locked(folder) else read_cell_state(folder, config, defaults)


def read_cell_state(folder: Path, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[str, str]:
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
        return CHANGED, listing([f"{name}: {old} -> {new}" for name, (old, new) in differences.items()], most=4)
    if complete:
        return FINISHED, ""
    return BEGUN, "continues, or begins again where no checkpoint can be continued"


def describe_costs(cells: Sequence[Cell], states: Sequence[str]) -> list[str]:
    """Return lines with the time and disk that each model's missing runs will need, and what is unknown."""
    lines = [f"{states.count(FINISHED)} of {len(cells)} runs are finished."]
    for model in {cell.model: None for cell in cells}:
        own = [(cell, state) for cell, state in zip(cells, states, strict=True) if cell.model == model]
        missing = sum(state != FINISHED for _, state in own)
        finished = [cell.folder for cell, state in own if state == FINISHED]
        if not missing:
            continue
        seconds = [value for value in map(_run_seconds, finished) if value is not None]
        if seconds:
            minutes = missing * sum(seconds) / len(seconds) / 60
            time = f"{minutes / 60:.1f} h" if minutes >= 60 else f"{minutes:.1f} min"
            megabytes = missing * sum(map(_folder_megabytes, finished)) / len(finished)
            lines.append(
                f"{model}: {missing} to do, about {time} of work and {megabytes:,.0f} MB, as its {len(finished)} "
                "finished took, wherever they ran; starting up comes on top"
            )
        else:
            lines.append(f"{model}: {missing} to do; time and disk are known once one of its runs is finished")
    return lines


def _run_seconds(folder: Path) -> float | None:
    seconds = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8")).get("seconds")
    return sum(seconds.values()) if seconds else None


def _folder_megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
