"""What a study can find: the difference of accuracy that its comparisons will mostly show, before anything is run."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hf_utils.arguments.data import SourceArguments
from hf_utils.errors import UserError
from hf_utils.files import RESULTS_FILE
from hf_utils.report.run_folders import REFERENCE_ARM
from hf_utils.report.statistics import plan_detectable
from hf_utils.study.cells import Cell
from hf_utils.study.file import Study

# Shares of the test tracks on which two runs of a model may disagree.
_DISAGREEMENTS = (0.05, 0.15, 0.3)


def describe_power(study: Study, cells: Sequence[Cell], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line with the detectable differences, none where no arm is compared with the reference arm."""
    num_arms = len(study.arms)
    if num_arms < 2 or REFERENCE_ARM not in {arm.name for arm in study.arms}:
        return []
    num_tests, num_seeds = len(study.models) * (num_arms - 1), len(study.seeds)
    seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
    design = f"{seeds}, comparisons with {REFERENCE_ARM}: {num_tests}"
    num_tracks = _count_test_tracks(cells, configs)
    if num_tracks is None:
        return [f"Power ({design}): known once the test tracks are here, or a run is finished."]
    sizes = [
        plan_detectable(num_tracks, num_seeds, share, num_arms=num_arms, num_tests=num_tests)
        for share in _DISAGREEMENTS
    ]
    found = ", ".join(
        f"{100 * size:.1f} points if two runs disagree on {share:.0%} of the tracks"
        for size, share in zip(sizes, _DISAGREEMENTS, strict=True)
    )
    return [f"Power ({num_tracks:,} test tracks, {design}): such a study mostly finds a difference of {found}."]


def _count_test_tracks(cells: Sequence[Cell], configs: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the number of test tracks of all folds, from finished runs or the data; None where neither is here."""
    counts: dict[Any, int | None] = {}
    sources = {}
    for cell, config in zip(cells, configs, strict=True):
        counts[config["fold"]] = counts.get(config["fold"]) or _read_count(cell.folder)
        sources[config["fold"]] = config
    unknown = [sources[fold] for fold, count in counts.items() if count is None]
    if not unknown:
        return sum(counts.values())
    if not all(Path(config["dataset_name"]).exists() for config in unknown):
        return None
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:  # as `cells.read_configs`
        found = pool.submit(count_tracks, unknown).result()
    return None if found is None else found + sum(filter(None, counts.values()))


def _read_count(folder: Path) -> int | None:
    try:
        results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        return int(results["evaluations"]["test"]["num_tracks"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def count_tracks(configs: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the number of test tracks of the runs with these configurations; None if the data has a fault.

    Bad files count, because no audio is read.
    """
    from hf_utils.data.corpus import load_split_clips

    names = [field.name for field in dataclasses.fields(SourceArguments)]
    total = 0
    for config in configs:
        args = SourceArguments(**{name: config[name] for name in names} | {"on_bad_audio": "error"})
        try:
            total += load_split_clips(args)["split"][:].count("test")
        except UserError:  # the runs tell
            return None
    return total
