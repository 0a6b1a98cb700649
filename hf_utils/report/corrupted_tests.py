"""What a run made of its test tracks under each corruption, from `results.json` and `robustness_predictions.csv`.

N tracks, K genres.
"""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_utils.errors import UserError
from hf_utils.files import CORRUPTED_PREDICTIONS_FILE, RESULTS_FILE

KEPT_SCORES = ("accuracy", "roc_auc", "f1", "ece")
_COLUMNS = ("corruption", "track_id", "prediction")


class CorruptionKey(NamedTuple):
    """What was done to the tracks: runs may be compared under corruptions with one key.

    `snr_db` is None where the severity is no signal-to-noise ratio. `digest` is None in runs of before there was one.
    """

    kind: str
    severity: str
    snr_db: float | None
    digest: str | None

    @property
    def name(self) -> str:
        """Kind and severity, such as white_noise_10_db; unique within a run."""
        return f"{self.kind}_{self.severity}"


@dataclasses.dataclass(frozen=True)
class CorruptedTest:
    """The test tracks under one corruption: `chosen` int (N,), indices of genres, and `KEPT_SCORES`.

    A score that is not known is NaN.
    """

    chosen: np.ndarray
    scores: Mapping[str, float]


def read_corrupted_tests(
    folder: Path, results: Mapping[str, Any], track_ids: Sequence[str], labels: np.ndarray
) -> dict[CorruptionKey, CorruptedTest]:
    """Return the tests of a run in the order in which they were made, tracks in the order of `track_ids` (N,).

    Raises UserError if the two files do not fit together, so that nothing can be said of the run under corruptions.
    """
    rows = results.get("robustness") or []
    if not rows:
        return {}
    try:
        keys = [CorruptionKey(row["kind"], row["severity"], row.get("snr_db"), row.get("digest")) for row in rows]
        answers = _read_answers(folder / CORRUPTED_PREDICTIONS_FILE)
        genres = {genre: index for index, genre in enumerate(results["genres"])}
        tests = {}
        for key, row in zip(keys, rows, strict=True):
            chosen = np.array([genres[answers[key.name][track_id]] for track_id in track_ids])
            tests[key] = CorruptedTest(chosen, select_scores(row))
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise UserError(
            f"its scores under corruptions are not used: {CORRUPTED_PREDICTIONS_FILE} does not have every track of "
            f"{RESULTS_FILE} under every corruption ({type(error).__name__}: {error})"
        ) from None
    for key, test in tests.items():
        check_corrupted(key, test, labels)
    return tests


def select_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return `KEPT_SCORES`, NaN for what is not there or undefined."""
    return {name: float("nan") if scores.get(name) is None else float(scores[name]) for name in KEPT_SCORES}


def check_corrupted(key: CorruptionKey, test: CorruptedTest, labels: np.ndarray) -> None:
    """Raise UserError unless the chosen genres (N,) give the accuracy that the scores hold."""
    accuracy = float((test.chosen == labels).mean())
    if not abs(accuracy - test.scores["accuracy"]) < 1e-6:
        raise UserError(
            f"its scores under corruptions are not used: the predictions under {key.name} give an accuracy of "
            f"{accuracy:.4f}, but its results say {test.scores['accuracy']:.4f}"
        )


def _read_answers(path: Path) -> dict[str, dict[str, str]]:
    """Return {name of the corruption: {track: chosen genre}}."""
    answers: dict[str, dict[str, str]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name, track_id, chosen = (row[column] for column in _COLUMNS)
            answers.setdefault(name, {})[track_id] = chosen
    return answers


def pool_tests(
    tests: Sequence[Mapping[CorruptionKey, CorruptedTest]], order: np.ndarray
) -> dict[CorruptionKey, CorruptedTest]:
    """Return the tests of several folds as one, under the corruptions that all of them have.

    `order` (N,) sorts their tracks, one fold after the other. Scores are means over tracks: each fold's model is
    judged by itself.
    """
    first, *rest = tests
    pooled = {}
    for key in (key for key in first if all(key in other for other in rest)):
        parts = [fold[key] for fold in tests]
        sizes = [len(part.chosen) for part in parts]
        scores = {
            name: float(np.average([part.scores[name] for part in parts], weights=sizes)) for name in KEPT_SCORES
        }
        pooled[key] = CorruptedTest(np.concatenate([part.chosen for part in parts])[order], scores)
    return pooled
