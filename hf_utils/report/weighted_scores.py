"""Accuracy, macro F1 and one-vs-rest ROC-AUC of many resamples of the tracks at once.

A resample says how often each track is in it, so a score of a resample is a score with weights, and B scores are one
matrix product. Weights of one give the scores of `hf_utils.results.metrics`. Axes: B resamples, N tracks, K genres.
"""

import numpy as np


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
