"""What the missing runs of a study will cost, from finished runs of the same model alone: nothing is guessed."""

import json
from collections.abc import Sequence
from pathlib import Path

from hf_utils.report.run_folders import RESULTS_FILE
from hf_utils.study.cells import Cell
from hf_utils.study.state import FINISHED


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
