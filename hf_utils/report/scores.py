"""Scores of a table with their intervals, and every arm against the reference arm with its test.

B resamples of the tracks, N tracks, S seeds. Row 0 of resampled scores is the score itself.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hf_utils.report.run_folders import Replicate, Table
from hf_utils.report.statistics import (
    Difference,
    compare_runs,
    compare_seeds,
    correct_holm,
    paired_p,
    pool_seed_variances,
    weighted_accuracy,
    weighted_f1,
    weighted_roc_auc,
)
from hf_utils.results.intervals import LEVEL, percentile_interval, resample_tracks

Cell = tuple[str, str]  # model and arm
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

    `accuracy` and `roc_auc` are differences of the scores; under corruptions only accuracy is compared, and ROC-AUC is
    None. The verdict is on accuracy; `p_corrected` is its p-value after Holm's correction for all comparisons of the
    table.
    """

    model: str
    arm: str
    accuracy: Difference
    roc_auc: Difference | None
    p_corrected: float
    verdict: str


class Pair(NamedTuple):
    """A cell and the reference cell of its model, and which of their replicates are of seeds that both have."""

    cell: Cell
    reference: Cell
    rows: list[int]
    reference_rows: list[int]


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
        {(*cell, metric): summarise(values) for metric, cells in found.items() for cell, values in cells.items()}
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


def summarise(resampled: np.ndarray) -> Score:
    """Return the Score of (S, 1 + B) scores."""
    own = resampled[:, 0]
    # Of the differences from the first: of equal scores it is 0, where rounding of their mean would leave 1e-17.
    deviation = float(np.std(own - own[0], ddof=1)) if len(own) > 1 else None
    return Score(float(resampled[:, 0].mean()), deviation, *percentile_interval(resampled[:, 1:].mean(axis=0)))


def compare_arms(table: Table, reference: str, resampled: Mapping[str, Mapping[Cell, np.ndarray]]) -> list[Comparison]:
    """Return every arm against the reference arm of its model, from `resample_scores` of accuracy and roc_auc."""
    pairs = find_pairs(table, reference)
    right = {cell: _right_answers(table, replicates) for cell, replicates in table.cells.items()}
    given = {cell: _true_genres(table, replicates) for cell, replicates in table.cells.items()}
    accuracy = compare_pairs(pairs, resampled["accuracy"], right, num_tests=len(pairs))
    roc_auc = compare_pairs(pairs, resampled["roc_auc"], given, num_tests=len(pairs), is_mean=False)
    corrected = correct_holm([difference.p for difference in accuracy])
    return [
        Comparison(*pair.cell, of_accuracy, of_roc_auc, float(p), decide(of_accuracy.mean, p))
        for pair, of_accuracy, of_roc_auc, p in zip(pairs, accuracy, roc_auc, corrected, strict=True)
    ]


def find_pairs(table: Table, reference: str) -> list[Pair]:
    """Return every cell with the reference cell of its model, where they have seeds in common."""
    pairs = []
    for model, arm in sorted(table.cells):
        cells = ((model, arm), (model, reference))
        seeds = [[replicate.seed for replicate in table.cells.get(cell, ())] for cell in cells]
        if arm != reference and set(seeds[0]) & set(seeds[1]):
            rows = [[i for i, seed in enumerate(own) if seed in other] for own, other in (seeds, seeds[::-1])]
            pairs.append(Pair(*cells, *rows))
    return pairs


def compare_pairs(
    pairs: Sequence[Pair],
    resampled: Mapping[Cell, np.ndarray],
    answers: Mapping[Cell, np.ndarray],
    *,
    num_tests: int,
    is_mean: bool = True,
) -> list[Difference]:
    """Return the difference of each pair in one score.

    Args:
        resampled: {cell: (S, 1 + B) scores} of all cells of the table.
        answers: {cell: (S, N)}, what each replicate made of each track.
        num_tests: in the family that the p-values are corrected for.
        is_mean: whether the score is the mean of the answers; if not, a difference of two single runs has no test.
    """
    of_table = pool_seed_variances([values[:, 0] for values in resampled.values()])
    differences = []
    for pair in pairs:
        gaps = resampled[pair.cell][pair.rows] - resampled[pair.reference][pair.reference_rows]  # (S, 1 + B)
        own, other = answers[pair.cell][pair.rows], answers[pair.reference][pair.reference_rows]
        if len(gaps) == 1:
            p = paired_p(own[0], other[0]) if is_mean else float("nan")
            differences.append(compare_runs(gaps[0, 0], gaps[0, 1:], p, num_tests=num_tests))
            continue
        of_model = [values[:, 0] for (model, _), values in resampled.items() if model == pair.cell[0]]
        differences.append(
            compare_seeds(
                gaps[:, 0],
                gaps[:, 1:].mean(axis=0),
                [pool_seed_variances(of_model), of_table],
                num_changed=int((own != other).any(axis=0).sum()),
                num_tests=num_tests,
            )
        )
    return differences


def _right_answers(table: Table, replicates: Sequence[Replicate]) -> np.ndarray:
    """Return (S, N): 1 where a replicate got the track right, else 0."""
    return np.array([replicate.probabilities.argmax(axis=1) == table.labels for replicate in replicates], float)


def _true_genres(table: Table, replicates: Sequence[Replicate]) -> np.ndarray:
    """Return (S, N) probabilities that the replicates gave to the true genre of each track."""
    return np.array([replicate.probabilities[np.arange(len(table.labels)), table.labels] for replicate in replicates])


def decide(difference: float, p_corrected: float) -> str:
    """Return the verdict on a difference of accuracy."""
    if p_corrected >= LEVEL:
        return NO_DIFFERENCE
    return BETTER if difference > 0 else WORSE
