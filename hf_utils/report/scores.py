"""Scores of a table with their intervals, and every arm against the reference arm with its test.

B resamples of the tracks, N tracks, S seeds. Row 0 of resampled scores is the score itself.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from hf_utils.report.run_folders import Replicate, Table
from hf_utils.report.statistics import (
    Difference,
    compare_runs,
    compare_seeds,
    correct_holm,
    mcnemar_p,
    pool_seed_variances,
    weighted_accuracy,
    weighted_f1,
    weighted_roc_auc,
)
from hf_utils.results.intervals import LEVEL, percentile_interval, resample_tracks

METRICS = ("roc_auc", "accuracy", "f1")
BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no detectable difference"


@dataclasses.dataclass(frozen=True)
class Score:
    """Mean over seeds, standard deviation over seeds (None for one seed), and 95 % interval over test tracks."""

    mean: float
    deviation: float | None
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An arm against the reference arm of the same model, on the seeds that both have.

    `accuracy` and `roc_auc` are differences of the scores. The verdict is on accuracy; `p_corrected` is its p-value
    after Holm's correction for all comparisons of the table.
    """

    model: str
    arm: str
    accuracy: Difference
    roc_auc: Difference
    p_corrected: float
    verdict: str


@dataclasses.dataclass(frozen=True)
class ScoredTable:
    """A table, and the comparisons of its arms with the `reference` arm.

    Attributes:
        scores: by (model, arm, metric): the mean over seeds.
        scores_together: of the ensemble of all seeds, where there are several.
    """

    table: Table
    reference: str
    scores: Mapping[tuple[str, str, str], Score]
    scores_together: Mapping[tuple[str, str, str], Score]
    comparisons: list[Comparison]


def score_and_compare(table: Table, reference: str, *, num_resamples: int, seed: int = 0) -> ScoredTable:
    """Return scores and comparisons. An arm that shares no seed with its model's reference arm has no comparison."""
    num_tracks = len(table.track_ids)
    weights = np.vstack([np.ones(num_tracks), resample_tracks(num_tracks, num_resamples, seed)])
    resampled = {metric: resample_scores(table, metric, weights) for metric in METRICS}
    ensembles = join_seeds(table)
    resampled_together = {metric: resample_scores(ensembles, metric, weights) for metric in METRICS}
    scores, scores_together = (
        {(*cell, metric): _summarise(values) for metric, cells in found.items() for cell, values in cells.items()}
        for found in (resampled, resampled_together)
    )
    return ScoredTable(table, reference, scores, scores_together, compare_arms(table, reference, resampled))


def join_seeds(table: Table) -> Table:
    """Return the cells that have several seeds, each as one replicate: the mean of the seeds' probabilities."""
    cells = {}
    for cell, replicates in table.cells.items():
        first = replicates[0]
        # Of pooled folds, a track must have been scored by the same fold of every seed.
        is_alike = all(np.array_equal(replicate.fold_index, first.fold_index) for replicate in replicates)
        if len(replicates) > 1 and is_alike:
            probabilities = np.mean([replicate.probabilities for replicate in replicates], axis=0)
            runs = tuple(run for replicate in replicates for run in replicate.runs)
            cells[cell] = [dataclasses.replace(first, probabilities=probabilities, runs=runs)]
    return dataclasses.replace(table, cells=cells)


def resample_scores(table: Table, metric: str, weights: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Return {(model, arm): (S, 1 + B) scores}, a row per replicate, under (1 + B, N) `weights`, the first of ones."""
    return {
        cell: np.array([_score(metric, table.labels, replicate, weights) for replicate in replicates])
        for cell, replicates in table.cells.items()
    }


def _score(metric: str, labels: np.ndarray, replicate: Replicate, weights: np.ndarray) -> np.ndarray:
    """Return (1 + B,) scores of one replicate."""
    if metric == "roc_auc":
        return weighted_roc_auc(labels, replicate.probabilities, weights, replicate.fold_index)
    score = weighted_accuracy if metric == "accuracy" else weighted_f1
    return score(labels, replicate.probabilities, weights)


def _summarise(resampled: np.ndarray) -> Score:
    """Return the Score of (S, 1 + B) scores."""
    own = resampled[:, 0]
    # Of the differences from the first: of equal scores it is 0, where rounding of their mean would leave 1e-17.
    deviation = float(np.std(own - own[0], ddof=1)) if len(own) > 1 else None
    return Score(float(resampled[:, 0].mean()), deviation, *percentile_interval(resampled[:, 1:].mean(axis=0)))


def compare_arms(
    table: Table, reference: str, resampled: Mapping[str, Mapping[tuple[str, str], np.ndarray]]
) -> list[Comparison]:
    """Return every arm against the reference arm of its model, from `resample_scores` of accuracy and roc_auc."""
    pairs = []
    for model, arm in sorted(table.cells):
        seeds = _common_seeds(table, model, arm, reference) if arm != reference else []
        if seeds:
            pairs.append((model, arm, seeds))
    found = []
    for model, arm, seeds in pairs:
        differences = {
            metric: _compare_cells(
                table, (model, arm), (model, reference), metric, seeds, resampled[metric], len(pairs)
            )
            for metric in ("accuracy", "roc_auc")
        }
        found.append((model, arm, differences))
    corrected = correct_holm([differences["accuracy"].p for _, _, differences in found])
    return [
        Comparison(model, arm, d["accuracy"], d["roc_auc"], float(p), _verdict(d["accuracy"].mean, p))
        for (model, arm, d), p in zip(found, corrected, strict=True)
    ]


def _common_seeds(table: Table, model: str, arm: str, reference: str) -> list[int]:
    theirs = {replicate.seed for replicate in table.cells.get((model, reference), ())}
    return [replicate.seed for replicate in table.cells[model, arm] if replicate.seed in theirs]


def _compare_cells(table, cell, reference, metric, seeds, resampled, num_tests) -> Difference:
    """Return the difference of `cell` and `reference`, both (model, arm), in one metric on the seeds of both.

    `resampled` has the scores of every cell in that metric.
    """
    rows = [
        [i for i, replicate in enumerate(table.cells[key]) if replicate.seed in seeds] for key in (cell, reference)
    ]
    gaps = resampled[cell][rows[0]] - resampled[reference][rows[1]]  # (S, 1 + B)
    right = _right_answers(table, cell)[rows[0]]
    right_reference = _right_answers(table, reference)[rows[1]]
    if len(seeds) == 1:
        p = mcnemar_p(right[0], right_reference[0]) if metric == "accuracy" else float("nan")
        return compare_runs(gaps[0, 0], gaps[0, 1:], p, num_tests=num_tests)
    changed = (right != right_reference).any(axis=0) if metric == "accuracy" else table.labels >= 0
    of_model = [values[:, 0] for (model, _), values in resampled.items() if model == cell[0]]
    of_table = [values[:, 0] for values in resampled.values()]
    return compare_seeds(
        gaps[:, 0],
        gaps[:, 1:].mean(axis=0),
        [pool_seed_variances(of_model), pool_seed_variances(of_table)],
        num_changed=int(changed.sum()),
        num_tests=num_tests,
    )


def _right_answers(table: Table, cell: tuple[str, str]) -> np.ndarray:
    """Return (S, N): which tracks each replicate of a cell got right."""
    return np.array([replicate.probabilities.argmax(axis=1) == table.labels for replicate in table.cells[cell]])


def _verdict(difference: float, p_corrected: float) -> str:
    if p_corrected >= LEVEL:
        return NO_DIFFERENCE
    return BETTER if difference > 0 else WORSE
