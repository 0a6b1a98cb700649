"""What a run says about its model: scores of every evaluated set, and the files that the report reads.

Axes: W windows, N tracks, K genres.
"""

import dataclasses
import json
import logging
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import scipy.stats

from hf_utils.disclosure import is_secret
from hf_utils.errors import UserError
from hf_utils.files import (
    RESULTS_FILE,
    ROBUSTNESS_FILES,
    file_stem,
    to_json,
    write_atomically,
    write_predictions,
)
from hf_utils.results.calibration import apply_temperature
from hf_utils.results.confidence import Judged, describe_confidence
from hf_utils.results.metrics import metrics_for, softmax, vote
from hf_utils.results.plots import confusion_figure, encode_png
from hf_utils.versions import installed_versions

logger = logging.getLogger(__name__)
# Of the warning that chance explains a score.
_LEVEL, _POWER = 0.05, 0.8

PACKAGES = (
    "torch torchaudio torchvision transformers datasets evaluate accelerate huggingface_hub timm "
    "numpy scikit-learn soundfile av soxr audiomentations"
).split()


@dataclasses.dataclass
class EvaluatedSet:
    """One evaluated set: `labels` (N,), `probabilities` (N, K) of the soft vote, and scores by `metrics.GenreMetrics`.

    `scores` holds "track" (soft vote: the headline), "track_hard" (hard vote), "window" (every window by itself) and,
    of a model with a temperature, "track_calibrated" (soft vote with it, of the probabilities `calibrated` (N, K)).
    `logits` (W, K) are those of the windows, and `track_index` (W,) their tracks; an ensemble has neither.
    """

    name: str
    track_ids: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    scores: dict[str, dict[str, float]]
    num_windows: int
    logits: np.ndarray | None = None
    track_index: np.ndarray | None = None
    calibrated: np.ndarray | None = None

    def at_temperature(self, temperature: float | None, genres: Sequence[str]) -> "EvaluatedSet":
        """Return this set with calibrated probabilities and their scores; as it is for a model without temperature."""
        if temperature is None:
            return self
        return self.with_calibrated(apply_temperature(self.logits, self.track_index, temperature), genres)

    def with_calibrated(self, calibrated: np.ndarray, genres: Sequence[str]) -> "EvaluatedSet":
        """Return this set with these calibrated probabilities (N, K), and their scores."""
        scores = {**self.scores, "track_calibrated": metrics_for(tuple(genres)).score(calibrated, self.labels)}
        return dataclasses.replace(self, calibrated=calibrated, scores=scores)

    @property
    def predictions(self) -> np.ndarray:
        """(N,) indices of the chosen genres."""
        return self.probabilities.argmax(axis=1)

    @property
    def judged(self) -> Judged:
        """How sure the model is of each track, and whether it is right, by calibrated probabilities if there are."""
        probabilities = self.probabilities if self.calibrated is None else self.calibrated
        return Judged(probabilities.max(axis=1), probabilities.argmax(axis=1) == self.labels)


def score_windows(logits: np.ndarray, windows, genres: Sequence[str], name: str) -> EvaluatedSet:
    """Return the scores of (W, K) `logits` of `windows`, a `hf_utils.data.windows.EvaluationWindows`, in its order.

    Raises ValueError unless every window and every track is counted once, and UserError where logits are not finite.
    """
    track_index, labels = np.asarray(windows.track_index), np.asarray(windows.labels)
    if logits.shape != (len(track_index), len(genres)):
        raise ValueError(
            f"'{name}' has {len(track_index)} windows and {len(genres)} genres, but logits of shape {logits.shape} "
            "came back: windows were lost or counted twice."
        )
    if np.unique(track_index).tolist() != list(range(len(labels))) or len(set(windows.track_ids)) != len(labels):
        raise ValueError(f"'{name}' has {len(labels)} tracks, but not each of them once among its windows.")
    if not np.isfinite(logits).all():
        raise UserError(
            f"The model's outputs on '{name}' are not finite: training diverged. Lower --learning_rate, or train in "
            "fp32 (--precision fp32)."
        )
    probabilities = softmax(logits)
    metrics = metrics_for(tuple(genres))
    soft, hard = (vote(probabilities, track_index, how) for how in ("soft", "hard"))
    scores = {
        "track": metrics.score(soft, labels),
        "track_hard": metrics.score(hard, labels),
        "window": metrics.score(probabilities, labels[track_index]),
    }
    return EvaluatedSet(name, list(windows.track_ids), labels, soft, scores, len(track_index), logits, track_index)


def is_near_chance(evaluated: EvaluatedSet) -> bool:
    """Return whether always choosing the commonest genre explains the track accuracy, by a binomial test at 5 %.

    Sets that are too small to tell are not: those on which the test would find a model halfway between chance and no
    error in less than 80 % of cases.
    """
    num_tracks = len(evaluated.labels)
    chance = np.bincount(evaluated.labels).max() / num_tracks
    if chance == 1:  # only one genre: choosing it always is no baseline
        chance = 1 / evaluated.probabilities.shape[1]
    num_right = round(evaluated.scores["track"]["accuracy"] * num_tracks)
    enough = scipy.stats.binom.isf(_LEVEL, num_tracks, chance) + 1  # so many right has a probability below the level
    power = scipy.stats.binom.sf(enough - 1, num_tracks, (1 + chance) / 2)
    return bool(num_right < enough and power >= _POWER)


def warn_near_chance(evaluations: Sequence[EvaluatedSet]) -> None:
    """Log one warning of all sets whose accuracy chance explains: a wrong set-up looks just like a weak model."""
    if names := [evaluated.name for evaluated in evaluations if is_near_chance(evaluated)]:
        logger.warning(
            "The accuracy is not clearly above that of always choosing the commonest genre (binomial test, 5 %%): %s. "
            "Is the set-up right?",
            ", ".join(names),
        )


def format_scores(evaluations: Sequence[EvaluatedSet]) -> str:
    """Return a table for the terminal, one row per set; "-" is undefined. Soft vote unless the column says else.

    Under a set, a second row has its scores with the temperature of the model, if it has one.
    """
    header = ["set", "tracks", "windows", "accuracy", "hard vote", "per window"]
    header += ["macro F1", "ROC-AUC", "log-loss", "ECE"]
    rows = [header]
    for evaluated in evaluations:
        track, hard, window = (evaluated.scores[level] for level in ("track", "track_hard", "window"))
        numbers = [track["accuracy"], hard["accuracy"], window["accuracy"]]
        numbers += [track[score] for score in ("f1", "roc_auc", "log_loss", "ece")]
        counts = [str(len(evaluated.labels)), str(evaluated.num_windows)]
        rows.append([evaluated.name, *counts, *map(_show_number, numbers)])
        if calibrated := evaluated.scores.get("track_calibrated"):
            others = (_show_number(calibrated[score]) for score in ("f1", "roc_auc", "log_loss", "ece"))
            rows.append(["  calibrated", "", "", _show_number(calibrated["accuracy"]), "", "", *others])
    return align_columns(rows)


def _show_number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Return a table for the terminal: the first row is its header, the first column is on the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(line) for line in lines)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What `results.json` says of a run beside its scores; every value may be written as JSON.

    Attributes:
        protocol: of the split, from `splits.read_protocol`.
        genres: in the order of the labels.
        demo: whether the data is the demonstration's, so that no number is a result.
        data: names and counts of the clips in every split, set and source.
        model: its name, class, size and window lengths.
        config: the merged configuration of the run.
        seconds: by what they were spent on.
        training: what ended it and what was kept, from `selection.describe_training`; None where nothing was
            trained.
        earlier, licenses: from `training.provenance`: the trainings before this one, and the licences stated by what
            the model is made from.
    """

    protocol: Mapping
    genres: Sequence[str]
    demo: bool
    data: Mapping
    model: Mapping
    config: Mapping
    seed: int
    seconds: Mapping
    training: Mapping | None = None
    earlier: Sequence[Mapping] = ()
    licenses: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


class Robustness(Protocol):
    """Scores under corruptions: `rows`, one per corruption, `means`, by kind, the name of the `benchmark`, and mCE.

    `sets` has what was evaluated, by kind.
    """

    rows: Sequence[Mapping]
    means: Mapping
    benchmark: str | None
    corruption_error: Mapping | None
    sets: Mapping[str, Sequence[EvaluatedSet]]


def write_results(
    output_dir: str | os.PathLike,
    record: RunRecord,
    evaluations: Sequence[EvaluatedSet],
    *,
    robustness: Robustness | None = None,
    complete: bool = True,
) -> dict:
    """Write predictions and, last, `results.json`; return what that file holds.

    Files of the results that were there before, such as pictures of other sets, are removed. Undefined
    scores are null. Values whose name says that they are secret are left out of the configuration.
    `complete` is false until everything else of the run is written, too.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    results = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    results |= {
        "complete": complete,
        "config": {name: value for name, value in record.config.items() if not is_secret(name)},
        "versions": versions(),
        "evaluations": {e.name: _write_set(output_dir, e, record.genres) for e in evaluations},
    }
    if evaluations:
        results["confidence"] = describe_confidence(
            {e.name: e.judged for e in evaluations},
            {kind: [e.judged for e in sets] for kind, sets in robustness.sets.items()} if robustness else {},
            is_calibrated=all(e.calibrated is not None for e in evaluations),
        )
    if robustness is not None:
        results |= {"robustness": robustness.rows, "robustness_means": robustness.means}
        results |= {"robustness_benchmark": robustness.benchmark, "corruption_error": robustness.corruption_error}
    results = to_json(results)
    for name in _list_files(_read_earlier(output_dir)) - _list_files(results):
        Path(output_dir, name).unlink(missing_ok=True)
    text = json.dumps(results, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_atomically(output_dir / RESULTS_FILE, text + "\n")
    return results


def _read_earlier(output_dir: Path) -> dict:
    """Return the results that are in a folder, or {} where none can be read."""
    try:
        return json.loads((output_dir / RESULTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _list_files(results: Mapping) -> set[str]:
    """Return the names of the files that tell of a run's scores beside its `results.json`."""
    sets = results.get("evaluations", {}).values()
    names = [found[kind] for found in sets for kind in ("predictions", "confusion") if kind in found]
    return {Path(name).name for name in (*names, *(ROBUSTNESS_FILES if results.get("robustness") else ()))}


def versions() -> dict[str, str]:
    """Return the versions of Python and of every package that a result may depend on, and nothing of the machine."""
    # An environment that only evaluates may lack some of them.
    found = {name: version for name, version in installed_versions(PACKAGES).items() if version is not None}
    return {"python": platform.python_version(), **found}


def write_confusions(
    output_dir: str | os.PathLike, record: RunRecord, evaluations: Sequence[EvaluatedSet]
) -> dict[str, bytes]:
    """Write the confusion matrix of every set as a picture, under the name that results.json has for it.

    Returns {name of the set: PNG file}.
    """
    pictures = {}
    for evaluated in evaluations:
        figure = confusion_figure(evaluated, record.genres, note="demo data, not a result" if record.demo else "")
        pictures[evaluated.name] = encode_png(figure)
        write_atomically(Path(output_dir, _file_names(evaluated)["confusion"]), pictures[evaluated.name])
    return pictures


def _file_names(evaluated: EvaluatedSet) -> dict[str, str]:
    stem = file_stem(evaluated.name)
    return {"predictions": f"predictions_{stem}.csv", "confusion": f"confusion_{stem}.png"}


def _write_set(output_dir: Path, evaluated: EvaluatedSet, genres: Sequence[str]) -> dict:
    """Write the predictions of a set; return its part of results.json."""
    files = _file_names(evaluated)
    table = (evaluated.track_ids, evaluated.labels, evaluated.probabilities, genres)
    write_predictions(output_dir / files["predictions"], *table)
    return {"num_tracks": len(evaluated.labels), "num_windows": evaluated.num_windows, **files, **evaluated.scores}
