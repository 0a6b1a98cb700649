"""From folders of runs to tables: finished runs are read, and those that may be compared share a table.

Only `results.json`, `predictions_<set>.csv` and `robustness_predictions.csv` are read. A run belongs to the model and
the training arm that its option `run_name: model/arm` names, which a study sets. Without one, the model is its
checkpoint's name and the arm is what it was trained on; a run that only evaluated a checkpoint has an arm of its own.

Runs share a table only if they have the same protocol, split seed, tested folds, genres and test tracks, and if either
all or none of them were tested on tracks that their weights knew (`--allow_seen_tracks`). The runs of
all folds with one model, arm and seed are pooled into one: every track counts once, with the prediction of the run
that tested it. N tracks, K genres.
"""

import csv
import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_utils.disclosure import show_source
from hf_utils.errors import UserError
from hf_utils.files import RESULTS_FILE, file_stem, read_predictions
from hf_utils.report.corrupted_tests import (
    CorruptedTest,
    CorruptionKey,
    pool_tests,
    read_corrupted_tests,
    select_scores,
)

REFERENCE_ARM = "clean"
# Of a run that trained nothing: its options do not say what its checkpoint was trained on.
EVALUATED_ARM = "evaluated only"
CELL_FILE = "study_cell.yaml"  # written by a study before a run starts

_ARM_PARTS = " + "

# Predictions are written with every digit; a larger gap means that the two files are not of one run.
_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its predictions are in the order of its track names.

    Attributes:
        folder: where it was found, for messages.
        protocol: name, seed, num_folds and fold of the split.
        config: merged options, and `windows_per_step`, which depends on the number of processes, too.
        track_ids: N names, sorted.
        labels: int (N,).
        probabilities: float (N, K).
        dataset: the name that the option gave.
        real_tracks: their number in every split.
        scores: `KEPT_SCORES` of the set.
        corrupted: its test tracks under corruptions; empty if they were not tested, or another set is reported on.
        benchmark: name and version of these corruptions, such as "genre-c 1"; "" for others.
        mce, relative_mce: mean corruption errors as ratios; None if they were not computed.
        knew_tracks: whether the weights knew tracks of the set, or were chosen on tracks that they knew.
        planned_steps: optimiser steps of its training; None if it trained nothing or does not say it.
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
    scores: Mapping[str, float]
    corrupted: Mapping[CorruptionKey, CorruptedTest]
    benchmark: str
    mce: float | None
    relative_mce: float | None
    knew_tracks: bool
    planned_steps: int | None

    @property
    def is_named(self) -> bool:
        """Whether whoever started the run named its model and arm, so that its arm may be any choice of options."""
        return _given_names(self.config) is not None


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A run without a place in any table, or a part of one, and why."""

    folder: str
    reason: str


def read_runs(folders: Iterable[str | Path], set_name: str = "test") -> tuple[list[Run], list[LeftOut]]:
    """Return the finished runs at any depth of `folders`, and what is not finished or not usable.

    Raises UserError for a folder that does not exist.
    """
    runs, left_out = [], []
    for folder in _find_run_folders(folders):
        try:
            run, results = _read_run(folder, set_name)
            runs.append(run)
            if set_name == "test":  # the set that is corrupted
                corrupted = read_corrupted_tests(folder, results, run.track_ids, run.labels)
                runs[-1] = dataclasses.replace(run, corrupted=corrupted)
        except UserError as error:
            left_out.append(LeftOut(str(folder), str(error)))
    return _shorten_arms(runs), left_out


def _shorten_arms(runs: Sequence[Run]) -> list[Run]:
    """Reduce absolute paths in the names of arms to their last part, unless two arms would get one name."""
    short = {run.arm: _ARM_PARTS.join(map(show_source, run.arm.split(_ARM_PARTS))) for run in runs}
    counts = Counter(short.values())
    names = {arm: name if counts[name] == 1 else arm for arm, name in short.items()}
    return [dataclasses.replace(run, arm=names[run.arm]) for run in runs]


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


def _read_run(folder: Path, set_name: str) -> tuple[Run, dict[str, Any]]:
    """Return a run without its corrupted tests, and what its results.json holds."""
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
    accuracy = scores["track"]["accuracy"]
    check_accuracy(predictions.probabilities, predictions.labels, accuracy, RESULTS_FILE, path.name)
    order = np.argsort(predictions.track_ids)
    config = _with_windows(results)
    model, arm = _name_cell(config, trained=results.get("training", True) is not None)
    error = results.get("corruption_error") or {}
    run = Run(
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
        scores=select_scores(scores["track"]),
        corrupted={},
        benchmark=str(results.get("robustness_benchmark") or ""),
        mce=error.get("mce"),
        relative_mce=error.get("relative_mce"),
        knew_tracks=_knew_tracks(results, config, set_name),
        planned_steps=(results.get("training") or {}).get("planned_steps"),
    )
    return run, results


def _with_windows(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with the windows of a step; of a run that does not say it, as in one process."""
    config, training = results.get("config", {}), results.get("training") or {}
    named = [config.get(name) for name in ("per_device_train_batch_size", "gradient_accumulation_steps")]
    windows = training.get("windows_per_step") or (training and all(named) and math.prod(named))
    return {**config, "windows_per_step": windows} if windows else config


def check_accuracy(
    probabilities: np.ndarray, labels: np.ndarray, accuracy: float, results_file: str, tracks_file: str
) -> None:
    """Raise UserError unless (N, K) probabilities of the second file give the accuracy that the first one says."""
    found = float((probabilities.argmax(axis=1) == labels).mean())
    if abs(found - accuracy) > _TOLERANCE:
        raise UserError(
            f"{tracks_file} gives an accuracy of {found:.4f}, but {results_file} says {accuracy:.4f}: they are not of "
            "one run"
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


def _given_names(config: dict[str, Any]) -> tuple[str, str] | None:
    names = str(config.get("run_name") or "").split("/")
    return (names[0], names[1]) if len(names) == 2 and all(names) else None


def _name_cell(config: dict[str, Any], *, trained: bool) -> tuple[str, str]:
    """Return the names of model and arm."""
    if (names := _given_names(config)) is not None:
        return names
    members = [config.get("model_name_or_path", "unnamed"), *(config.get("ensemble_with") or [])]
    model = _ARM_PARTS.join(Path(str(name)).name for name in members)
    if not trained:
        return model, EVALUATED_ARM
    mix = [item for item in config.get("train_datasets") or ["real"]]
    if config.get("augmentation"):
        mix.append(f"augmented by {show_source(config['augmentation'])}")
    arm = REFERENCE_ARM if mix in (["real"], [config.get("dataset_name")]) else _ARM_PARTS.join(map(str, mix))
    return model, arm


def _real_tracks(data: Any) -> dict[str, int]:
    """Return how many tracks of every split are real: a training mix holds copies and generated clips as well."""
    splits = data.get("splits") if isinstance(data, dict) else None
    splits = splits if isinstance(splits, dict) else {}
    origins = {name: split.get("origins") for name, split in splits.items() if isinstance(split, dict)}
    counts = {name: counted.get("real") for name, counted in origins.items() if isinstance(counted, dict)}
    return {name: count for name, count in counts.items() if isinstance(count, int)}


def _knew_tracks(results: dict[str, Any], config: dict[str, Any], set_name: str) -> bool:
    """Return whether the weights knew tracks that they were tested or chosen on, or may have, where nobody checked."""
    data = results.get("data")
    seen = data.get("seen_tracks") if isinstance(data, dict) else None
    if isinstance(seen, dict):
        return bool(seen.keys() & {set_name, "validation"})
    return bool(config.get("allow_seen_tracks")) and not results.get("training")


@dataclasses.dataclass(frozen=True)
class Replicate:
    """One training seed of a cell: its run, or its runs of all folds; `fold_index` (N,) names the run of a track."""

    seed: int
    probabilities: np.ndarray
    fold_index: np.ndarray
    runs: tuple[Run, ...]
    corrupted: Mapping[CorruptionKey, CorruptedTest] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Table:
    """Comparable runs. `cells` maps (model, arm) to replicates in the order of their seeds."""

    protocol: str
    split_seed: int | None
    num_folds: int | None
    folds: tuple[int, ...]
    genres: tuple[str, ...]
    demo: bool
    knew_tracks: bool
    track_ids: tuple[str, ...]
    labels: np.ndarray
    cells: dict[tuple[str, str], list[Replicate]]

    @property
    def models(self) -> list[str]:
        """Names of models, sorted."""
        return sorted({model for model, _ in self.cells})

    def arms(self, reference: str) -> list[str]:
        """Names of arms, the reference first."""
        return sorted({arm for _, arm in self.cells}, key=lambda arm: (arm != reference, arm))


def make_tables(runs: Iterable[Run]) -> tuple[list[Table], list[LeftOut]]:
    """Return the tables, and the runs that are twice there: of those the first folder's is used."""
    replicates, left_out = {}, []
    for run in runs:
        fold = run.protocol.get("fold") if run.protocol["name"] == "artist_folds" else None
        group = (*_protocol_key(run), run.model, run.arm, run.seed)
        folds = replicates.setdefault(group, {})
        if fold in folds:
            left_out.append(
                LeftOut(
                    run.folder,
                    f"same model, arm, seed and fold as {folds[fold].folder}, which is used; runs with "
                    "--run_name MODEL/ARM have names of their own",
                )
            )
        elif any(set(run.track_ids) & set(other.track_ids) for other in folds.values()):
            left_out.append(
                LeftOut(run.folder, "tests tracks that another fold tests, too: not the folds of one split")
            )
        else:
            folds[fold] = run
    tables = {}
    for (*protocol, model, arm, seed), folds in replicates.items():
        pooled, track_ids, labels = _pool_folds(seed, folds)
        tested = tuple(fold for fold in sorted(folds, key=str) if fold is not None)
        key = (*protocol, tested, track_ids, tuple(labels))
        table = tables.setdefault(key, Table(*protocol[:3], tested, *protocol[3:], track_ids, labels, {}))
        table.cells.setdefault((model, arm), []).append(pooled)
    for table in tables.values():
        for cell in table.cells.values():
            cell.sort(key=lambda replicate: replicate.seed)
    return sorted(
        tables.values(), key=lambda t: (t.demo, t.knew_tracks, t.protocol, -len(t.track_ids), -len(t.cells))
    ), left_out


def _protocol_key(run: Run) -> tuple:
    protocol = run.protocol
    return protocol["name"], protocol.get("seed"), protocol.get("num_folds"), run.genres, run.demo, run.knew_tracks


def _pool_folds(seed: int, folds: dict[int | None, Run]) -> tuple[Replicate, tuple[str, ...], np.ndarray]:
    runs = list(folds.values())
    names = np.concatenate([run.track_ids for run in runs])
    order = np.argsort(names)
    fold_index = np.concatenate([np.full(len(run.track_ids), index) for index, run in enumerate(runs)])
    probabilities = np.concatenate([run.probabilities for run in runs])[order]
    labels = np.concatenate([run.labels for run in runs])[order]
    corrupted = pool_tests([run.corrupted for run in runs], order)
    replicate = Replicate(seed, probabilities, fold_index[order], tuple(runs), corrupted)
    return replicate, tuple(names[order].tolist()), labels
