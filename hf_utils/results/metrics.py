"""Scores of genre predictions as an `evaluate` metric that needs no network, and the vote from windows to tracks.

Axes: W windows, N rows that are scored (tracks, or windows), K genres.
"""

import functools
import logging
import tempfile
from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
import scipy.stats
from sklearn.metrics import precision_recall_fscore_support

logger = logging.getLogger(__name__)

SCORE_NAMES = ("accuracy", "precision", "recall", "f1", "roc_auc", "log_loss", "ece")
GENRE_SCORE_NAMES = ("precision", "recall", "f1", "roc_auc", "support")
CALIBRATION_BINS = 15
# Settles a vote's tie when added to the winner's share: more than float error, less than 1 / windows of a track.
_TIE_BREAK = 1e-9

_DESCRIPTION = "Accuracy, macro precision, recall, F1 and one-vs-rest ROC-AUC, log-loss, calibration error, per genre."
_INPUTS = """
Args:
    predictions: (N, K) probabilities, rows that sum to 1.
    references: (N,) indices of the true genres.
"""
_CITATION = """@inproceedings{guo2017calibration, title={On Calibration of Modern Neural Networks},
author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.}, booktitle={ICML}, year={2017}}"""


class GenreMetrics(evaluate.Metric):
    """`compute(predictions=(N, K) probabilities, references=(N,) ints)` returns a flat dict of floats.

    Keys are `SCORE_NAMES`, and for each genre `precision_<genre>`, `recall_<genre>`, `f1_<genre>`, `roc_auc_<genre>`
    and `support_<genre>` (rows of that genre). Macro scores are means over the genres that occur in `references`: a
    genre without a track has no recall, and its ROC-AUC is undefined. What is undefined is NaN (`null` in JSON):
    `roc_auc_<genre>` of an absent genre, and `roc_auc` where all references are of one genre. The precision of a
    genre that is never predicted counts as 0. `ece` is `calibration_error`. `log_loss` clips probabilities at
    float64's epsilon.
    """

    def __init__(self, genres: Sequence[str]):
        self.genres = list(genres)
        # `evaluate` makes a folder in the user's cache even if it keeps everything in memory, and its cache files
        # are shared by name between runs. In memory, with a folder that is gone at once, two runs cannot meet.
        with tempfile.TemporaryDirectory() as folder:
            super().__init__(keep_in_memory=True, cache_dir=folder, seed=0)

    def _info(self):
        features = {
            "predictions": datasets.Sequence(datasets.Value("float64"), length=len(self.genres)),
            "references": datasets.Value("int64"),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, *, predictions, references) -> dict[str, float]:
        return self.score(np.asarray(predictions, np.float64), np.asarray(references, np.int64))

    def score(self, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return what `compute` does, for (N, K) and (N,) in memory: the table of `evaluate` takes ten times as long.

        Raises:
            ValueError: rows are no probabilities, or labels no genres.
        """
        self._check(probabilities, labels)
        classes = np.arange(len(self.genres))
        chosen = probabilities.argmax(axis=1)
        precision, recall, f1, support = precision_recall_fscore_support(
            labels, chosen, labels=classes, zero_division=0
        )
        present = support > 0
        roc_auc = _roc_auc(probabilities, labels, support)
        if not present.all():
            _notice_missing(tuple(self.genres[k] for k in classes[~present]))
        scores = {
            "accuracy": (chosen == labels).mean(),
            "precision": precision[present].mean(),
            "recall": recall[present].mean(),
            "f1": f1[present].mean(),
            "roc_auc": np.nan if np.isnan(roc_auc).all() else np.nanmean(roc_auc),
            "log_loss": log_loss(probabilities, labels),
            "ece": calibration_error(probabilities, labels),
        }
        for k, genre in enumerate(self.genres):
            per_genre = (precision[k], recall[k], f1[k], roc_auc[k], support[k])
            scores.update({f"{name}_{genre}": value for name, value in zip(GENRE_SCORE_NAMES, per_genre, strict=True)})
        return {name: float(value) for name, value in scores.items()}

    def _check(self, probabilities, labels):
        if not np.isfinite(probabilities).all() or np.abs(probabilities.sum(axis=1) - 1).max() > 1e-3:
            raise ValueError(
                "Predictions must be probabilities: finite rows that sum to 1. Apply `softmax` to logits."
            )
        if labels.min() < 0 or labels.max() >= len(self.genres):
            raise ValueError(
                f"References must be 0 to {len(self.genres) - 1}, the indices of {len(self.genres)} genres; "
                f"found {labels.min()} to {labels.max()}."
            )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return (W, K) float64 probabilities of (W, K) logits, whatever their precision."""
    logits = np.asarray(logits, np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def vote(probabilities: np.ndarray, track_index: np.ndarray, how: str) -> np.ndarray:
    """Return (N, K) track scores from (W, K) probabilities of windows; `track_index` (W,) holds each window's track.

    `soft`: mean of the windows' probabilities. `hard`: share of the windows that a genre wins; where genres tie for
    the most windows, the one with the larger mean probability gets 1e-9 more, so that `argmax` chooses it.
    """
    counts = np.bincount(track_index)
    if (counts == 0).any():
        raise ValueError(
            f"Every track needs a window; without one: tracks {np.flatnonzero(counts == 0)[:10].tolist()}."
        )
    if how not in ("soft", "hard"):
        raise ValueError(f"A vote is 'soft' or 'hard', not {how!r}.")
    mean = _mean_by_track(probabilities, track_index, counts)
    if how == "soft":
        return mean
    winners = np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]
    shares = _mean_by_track(winners, track_index, counts)
    tied = shares > shares.max(axis=1, keepdims=True) - _TIE_BREAK
    ambiguous = np.flatnonzero(tied.sum(axis=1) > 1)
    shares[ambiguous, np.where(tied, mean, -1.0).argmax(axis=1)[ambiguous]] += _TIE_BREAK
    return shares


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of -ln(probability of the true genre): (N, K) probabilities, clipped at epsilon, (N,) labels."""
    return float(-np.log(_clip(probabilities[np.arange(len(labels)), labels])).mean())


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the gap of confidence and accuracy, a mean over 15 equal bins of confidence weighted by rows in them.

    (N, K) probabilities, (N,) labels. Bins are (0, 1/15], (1/15, 2/15], ... as in Guo et al. (2017), arXiv 1706.04599.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    # |sum of confidence - sum of correct| of a bin is its gap times its number of rows.
    return float(np.abs(np.bincount(bins, weights=confidence - correct)).sum() / len(labels))


def _mean_by_track(values, track_index, counts):
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, track_index, values)
    return sums / counts[:, None]


def _roc_auc(probabilities, labels, support):
    """Return (K,) areas under the ROC curves, one genre against the rest; NaN where there is no rest, or no genre.

    From ranks (Mann and Whitney's U; Hanley and McNeil 1982, doi 10.1148/radiology.143.1.7063747), of all genres at
    once: scikit-learn takes 5 ms for each of them, more than a small model for a batch.
    """
    ranks = scipy.stats.rankdata(probabilities, axis=0)
    rank_sums = np.bincount(labels, weights=ranks[np.arange(len(labels)), labels], minlength=len(support))
    pairs = support * (len(labels) - support)
    wins = rank_sums - support * (support + 1) / 2
    return np.divide(wins, pairs, out=np.full(len(support), np.nan), where=pairs > 0)


def _clip(probabilities):
    return np.clip(probabilities, np.finfo(np.float64).eps, 1.0)


@functools.cache  # making one takes longer than scoring a thousand tracks
def metrics_for(genres: tuple[str, ...]) -> GenreMetrics:
    """Return the metric of these genres."""
    return GenreMetrics(genres)


@functools.cache  # once per process and set of genres: scores are computed three times per evaluation, every epoch
def _notice_missing(genres):
    logger.warning(
        "No track of %s here: macro scores are over the other genres, and their own ROC-AUC is undefined (null).",
        ", ".join(genres),
    )
