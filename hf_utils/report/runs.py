"""The runs that a report is about, read from `results.json` and `predictions_<set>.csv` alone.

A run belongs to the model and the training arm that its option `run_name: model/arm` says, which a study sets. Without
one, the model is its checkpoint's name and the arm is what it was trained on. N tracks, K genres.
"""

import csv
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_utils.errors import UserError
from hf_utils.files import file_stem, read_predictions

RESULTS_FILE = "results.json"
REFERENCE_ARM = "clean"
CELL_FILE = "study_cell.yaml"  # written by a study before a run starts
# Predictions are written with every digit; a larger gap means that the two files are not of one run.
_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its predictions are in the order of its track names.

    Attributes:
        folder: where it was found, for messages.
        protocol: name, seed, num_folds and fold of the split.
        config: merged options.
        track_ids: N names, sorted.
        labels: int (N,).
        probabilities: float (N, K).
        dataset: the name that the option gave.
        real_tracks: their number in every split.
        robustness: rows with kind, severity, snr_db, accuracy and roc_auc; empty if it was not measured.
    """

    folder: str
    model: str
    arm: str
    seed: int
    protocol: dict[str, Any]
    genres: tuple[str, ...]
    demo: bool
    config: dict[str, Any]
    track_ids: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    dataset: str
    real_tracks: dict[str, int]
    robustness: tuple[dict[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A run without a place in any table, and why."""

    folder: str
    reason: str


def read_runs(folders: Iterable[str | Path], set_name: str = "test") -> tuple[list[Run], list[LeftOut]]:
    """Return the finished runs at any depth of `folders`, and those which are not finished or not usable.

    Raises UserError for a folder that does not exist.
    """
    runs, left_out = [], []
    for folder in _find_run_folders(folders):
        try:
            runs.append(_read_run(folder, set_name))
        except UserError as error:
            left_out.append(LeftOut(str(folder), str(error)))
    return runs, left_out


def _find_run_folders(folders: Iterable[str | Path]) -> list[Path]:
    """Return folders with results, and those in which a run has begun."""
    finished, begun = set(), set()
    for root in map(Path, folders):
        if not root.is_dir():
            raise UserError(f"{root} is no folder. Expected one with runs in it, such as the output_dir of a study.")
        finished |= {path.parent for path in root.rglob(RESULTS_FILE)}
        begun |= {path.parent for path in root.rglob(CELL_FILE)}
        begun |= {path.parent.parent for path in root.rglob("checkpoint-*/trainer_state.json")}
    # A folder inside a run's is part of that run.
    begun = {folder for folder in begun if not (finished | begun).intersection(folder.parents)}
    return sorted(finished | begun)


def _read_run(folder: Path, set_name: str) -> Run:
    results = _read_results(folder)
    scores = results["evaluations"].get(set_name)
    if scores is None:
        raise UserError(f"not evaluated on '{set_name}'")
    path = folder / f"predictions_{file_stem(set_name)}.csv"
    try:
        predictions = read_predictions(path)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path.name} cannot be read ({error})") from None
    genres = tuple(results["genres"])
    if tuple(predictions.genres) != genres:
        raise UserError(f"{path.name} has other genres than {RESULTS_FILE}")
    if not len(predictions.track_ids) or len(set(predictions.track_ids)) < len(predictions.track_ids):
        raise UserError(f"{path.name} has no track, or a track twice")
    if not np.isfinite(predictions.probabilities).all():
        raise UserError(f"{path.name} has probabilities that are no numbers")
    accuracy = float((predictions.probabilities.argmax(axis=1) == predictions.labels).mean())
    if abs(accuracy - scores["track"]["accuracy"]) > _TOLERANCE:
        raise UserError(
            f"{path.name} gives an accuracy of {accuracy:.4f}, but {RESULTS_FILE} says "
            f"{scores['track']['accuracy']:.4f}: they are not of one run"
        )
    order = np.argsort(predictions.track_ids)
    config = results.get("config", {})
    model, arm = _name_cell(config)
    return Run(
        folder=str(folder),
        model=model,
        arm=arm,
        seed=results["seed"],
        protocol=results["protocol"],
        genres=genres,
        demo=bool(results.get("demo")),
        config=config,
        track_ids=tuple(predictions.track_ids[index] for index in order),
        labels=predictions.labels[order],
        probabilities=predictions.probabilities[order],
        dataset=str(config.get("dataset_name", "")),
        real_tracks=_real_tracks(results.get("data")),
        robustness=_robustness_rows(results.get("robustness")),
    )


def _read_results(folder: Path) -> dict[str, Any]:
    try:
        results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("not finished: no results yet") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{RESULTS_FILE} cannot be read ({error})") from None
    wanted = ("complete", "protocol", "genres", "seed", "evaluations")
    missing = [key for key in wanted if not isinstance(results, dict) or key not in results]
    if missing:
        raise UserError(f"{RESULTS_FILE} has no {', '.join(missing)}: it is not of run_classification.py")
    if not results["complete"]:
        raise UserError("not finished: some sets are not evaluated yet")
    return results


def _name_cell(config: dict[str, Any]) -> tuple[str, str]:
    """Return the names of model and arm."""
    names = str(config.get("run_name") or "").split("/")
    if len(names) == 2 and all(names):
        return names[0], names[1]
    model = Path(str(config.get("model_name_or_path", "unnamed"))).name
    mix = [item for item in config.get("train_datasets") or ["real"]]
    if config.get("augmentation"):
        mix.append(f"augmented by {config['augmentation']}")
    arm = REFERENCE_ARM if mix in (["real"], [config.get("dataset_name")]) else " + ".join(map(str, mix))
    return model, arm


def _real_tracks(data: Any) -> dict[str, int]:
    """Return how many tracks of every split are real: a training mix holds copies and generated clips as well."""
    splits = data.get("splits") if isinstance(data, dict) else None
    splits = splits if isinstance(splits, dict) else {}
    origins = {name: split.get("origins") for name, split in splits.items() if isinstance(split, dict)}
    counts = {name: counted.get("real") for name, counted in origins.items() if isinstance(counted, dict)}
    return {name: count for name, count in counts.items() if isinstance(count, int)}


def _robustness_rows(robustness: Any) -> tuple[dict[str, Any], ...]:
    wanted = {"kind", "severity", "accuracy"}
    rows: Sequence = robustness if isinstance(robustness, list) else ()
    return tuple(row for row in rows if isinstance(row, dict) and wanted <= row.keys())
