"""What a difference between two models is worth: scores of resampled tracks, intervals, tests, and their correction.

A resample of the tracks says how often each track is in it, so a score of a resample is a score with weights, and B
scores are one matrix product. Weights of one give the scores of `hf_utils.results.metrics`.

A study has two sources of chance: the test tracks, and the training seeds. A difference is real only if other tracks
and other seeds would show it again, so both enter its standard error:

- tracks: the variance of the difference over paired bootstrap resamples of the tracks, each resample the same for both
  models and for all seeds (ROC-AUC and F1 are no means over tracks, so there is no formula);
- seeds: the sample variance of the difference over seeds, divided by their number. Resampling 2 to 5 seeds would find
  too small a variance, by the factor (S - 1) / S, and percentiles of it would be too narrow still.

The noise of a single track in a single run is in both parts; it is counted twice on purpose. With two or three seeds
an estimated variance over seeds can be near zero by luck, so the largest of three estimates is taken: of this
comparison, of all arms of this model, of all models of the table. The interval and the p-value are those of Student's
t with Satterthwaite's degrees of freedom. `tests/report/test_statistics.py` simulates studies without any difference,
with 2, 3 and 5 seeds, and counts how often the corrected test finds one.

Axes: B resamples, N tracks, K genres, S seeds.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy

from hf_utils.results.intervals import LEVEL, percentile_interval

POWER = 0.8


def weighted_accuracy(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (B,) shares of tracks whose most probable genre is the true one."""
    correct = probabilities.argmax(axis=1) == labels
    return (weights @ correct.astype(weights.dtype)) / weights.sum(axis=1)


def weighted_f1(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (B,) macro F1 scores; each is a mean over the genres that occur in the resample."""
    num_genres = probabilities.shape[1]
    pairs = np.eye(num_genres**2, dtype=weights.dtype)[labels * num_genres + probabilities.argmax(axis=1)]
    confusion = (weights @ pairs).reshape(-1, num_genres, num_genres)  # (B, true, chosen)
    hits, true, chosen = np.einsum("bkk->bk", confusion), confusion.sum(axis=2), confusion.sum(axis=1)
    f1 = 2 * hits / np.maximum(true + chosen, 1)
    return np.mean(f1, axis=1, where=true > 0)


def weighted_roc_auc(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Return (B,) macro ROC-AUC, one genre against the rest; NaN where no genre has both sides in the resample.

    A genre's ROC-AUC is the share of (track of the genre, other track) pairs that its probability orders rightly, half
    a point for a tie. `groups` (N,) names the model that scored each track: only pairs scored by one model count,
    because the probabilities of two models, such as those of two folds, are on two scales (Forman and Scholz 2010,
    "Apples-to-apples in cross-validation studies").
    """
    scores = []
    for genre in range(probabilities.shape[1]):
        ordered = pairs = 0
        for group in np.unique(groups):
            inside, is_genre = groups == group, labels == genre
            own, rest = np.flatnonzero(inside & is_genre), np.flatnonzero(inside & ~is_genre)
            gap = probabilities[own, None, genre] - probabilities[None, rest, genre]
            won = (0.5 * (np.sign(gap) + 1)).astype(weights.dtype)
            ordered = ordered + np.einsum("bn,bn->b", weights[:, own] @ won, weights[:, rest])
            pairs = pairs + weights[:, own].sum(axis=1) * weights[:, rest].sum(axis=1)
        scores.append(np.divide(ordered, pairs, out=np.full(len(weights), np.nan), where=pairs > 0))
    scores = np.array(scores)
    known = ~np.isnan(scores)
    sums = np.where(known, scores, 0).sum(axis=0)
    return np.divide(sums, known.sum(axis=0), out=np.full(len(weights), np.nan), where=known.any(axis=0))


@dataclasses.dataclass(frozen=True)
class Difference:
    """Mean difference over seeds with its 95 % interval and uncorrected p-value.

    `detectable` is the difference that a study of this size finds in 80 % of repetitions at the level that Holm's
    correction asks of the smallest p-value of the table.
    """

    mean: float
    low: float
    high: float
    p: float
    num_seeds: int
    detectable: float


@dataclasses.dataclass(frozen=True)
class SeedVariance:
    """Variance of the difference of two runs over seeds, and the degrees of freedom that it was estimated with."""

    variance: float
    degrees: int


def mcnemar_p(first: np.ndarray, second: np.ndarray) -> float:
    """Return the exact two-sided p-value of McNemar's test of (N,) right answers of two models on the same tracks."""
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(~first & second))
    if only_first + only_second == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_first, only_first + only_second).pvalue)


def paired_p(first: np.ndarray, second: np.ndarray) -> float:
    """Return the two-sided p-value of (N,) answers of two single runs, as much as each is right, from 0 to 1.

    McNemar's exact test where every answer is right or wrong; else the paired t-test over tracks, which has no p-value
    below the smallest of the sign test of as many tracks.
    """
    if all(np.isin(answers, (0, 1)).all() for answers in (first, second)):
        return mcnemar_p(first == 1, second == 1)
    changes = first - second
    num_changed, error = np.count_nonzero(changes), np.std(changes, ddof=1) / np.sqrt(len(changes))
    p = 2 * scipy.stats.t.sf(abs(changes.mean()) / error, len(changes) - 1) if error > 0 else float(not num_changed)
    return float(max(p, min(1.0, 2.0 ** (1 - num_changed))))


def correct_holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values corrected for their number by Holm (1979); each stays comparable with 5 %."""
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return corrected


def pool_seed_variances(scores: Sequence[np.ndarray]) -> SeedVariance | None:
    """Return the variance of the difference of two runs, from (S,) scores of several arms; None without two seeds.

    Seeds of two arms are taken for independent, so the difference has twice the pooled variance of one arm.
    """
    repeated = [np.asarray(values) for values in scores if len(values) > 1]
    degrees = sum(len(values) - 1 for values in repeated)
    if not degrees:
        return None
    return SeedVariance(2 * sum(((values - values.mean()) ** 2).sum() for values in repeated) / degrees, degrees)


def compare_seeds(
    per_seed: np.ndarray,
    resampled: np.ndarray,
    pooled: Sequence[SeedVariance],
    *,
    num_changed: int,
    num_tests: int,
) -> Difference:
    """Return the difference over two or more seeds.

    Args:
        per_seed: (S,) differences of the runs of one seed.
        resampled: (B,) mean differences over the seeds under resampled tracks.
        pooled: further estimates of the variance over seeds; the first gives the degrees of freedom.
        num_changed: tracks on which the two models differ at all. No test of so many tracks has a p-value below
            2^(1 - num_changed), and neither has this one.
        num_tests: number of tests in the table, for `detectable`.
    """
    num_seeds, mean = len(per_seed), float(np.mean(per_seed))
    of_tracks = _deviation(resampled) ** 2
    of_seeds = max([float(np.var(per_seed, ddof=1)), *(estimate.variance for estimate in pooled)]) / num_seeds
    variance = of_tracks + of_seeds
    degrees = max([num_seeds - 1, *(estimate.degrees for estimate in pooled[:1])])
    if variance > 0:
        degrees = _combine_degrees(of_seeds, degrees, of_tracks, num_changed - 1)
        p = float(2 * scipy.stats.t.sf(abs(mean) / np.sqrt(variance), degrees))
    else:
        p = 0.0 if mean else 1.0
    p = max(p, min(1.0, 2.0 ** (1 - num_changed)))
    half = float(scipy.stats.t.isf(LEVEL / 2, degrees) * np.sqrt(variance))
    detectable = _detectable(variance, degrees, num_tests)
    return Difference(mean, mean - half, mean + half, p, num_seeds, detectable)


def compare_runs(difference: float, resampled: np.ndarray, p: float, *, num_tests: int) -> Difference:
    """Return the difference of two single runs, with the percentile interval over tracks.

    Says nothing about other seeds: that chance cannot be seen in one run.
    """
    low, high = percentile_interval(resampled)
    return Difference(difference, low, high, p, 1, _detectable(_deviation(resampled) ** 2, np.inf, num_tests))


def plan_detectable(num_tracks: int, num_seeds: int, disagreement: float, *, num_arms: int, num_tests: int) -> float:
    """Return the difference of accuracy that a study will mostly find, as `detectable` will say it, before it is run.

    Args:
        disagreement: share of the tracks that one of two runs gets right and the other wrong. The arms are taken to
            change which tracks these are no more than other seeds do, and the accuracies of seeds to differ by that.
        num_arms: of a model.
        num_tests: comparisons in the table.
    """
    of_tracks = disagreement / num_tracks / num_seeds
    if num_seeds == 1:
        return _detectable(of_tracks, np.inf, num_tests)
    # The accuracy of a run varies by half of the tracks on which two runs disagree, a difference by twice that.
    of_seeds = 2 * (disagreement / 2 / num_tracks) / num_seeds
    degrees = _combine_degrees(of_seeds, num_arms * (num_seeds - 1), of_tracks, disagreement * num_tracks - 1)
    return _detectable(of_tracks + of_seeds, degrees, num_tests)


def _combine_degrees(of_seeds: float, seed_degrees: float, of_tracks: float, track_degrees: float) -> float:
    """Return Satterthwaite's degrees of freedom of the sum of two variances."""
    return (of_seeds + of_tracks) ** 2 / (of_seeds**2 / seed_degrees + of_tracks**2 / max(track_degrees, 1))


def _detectable(variance: float, degrees: float, num_tests: int) -> float:
    factor = scipy.stats.t.isf(LEVEL / 2 / num_tests, degrees) + scipy.stats.t.isf(1 - POWER, degrees)
    return float(factor * np.sqrt(variance))


def _deviation(resampled: np.ndarray) -> float:
    """Return the standard deviation of (B,) bootstrapped scores; resamples without a score (NaN) are left out."""
    known = resampled[~np.isnan(resampled)]
    return float(np.std(known)) if len(known) else float("nan")
