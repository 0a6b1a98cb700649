"""How far a probability can be trusted: what is right of the surest tracks, and from which probability on. N tracks.

A model that may say "unknown" keeps the tracks of which it is sure. Their share is its coverage, and the share of them
that is right its precision.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

# Shares of tracks that are kept, the surest ones.
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
# Of the kept tracks, the share that shall be right.
PRECISIONS = (0.9, 0.95)
_LEVEL = 0.95
# Of a threshold: as many as somebody would type.
_DECIMALS = 4


class Judged(NamedTuple):
    """The probability (N,) of the genre that was chosen for each track, and whether it is the right one (N,)."""

    confidence: np.ndarray
    is_right: np.ndarray


def accuracy_by_coverage(judged: Judged, shares: Sequence[float] = COVERAGES) -> list[float]:
    """Return the accuracy of the surest tracks, for each share of them (rounded up to whole tracks).

    Of equally sure tracks at the edge, some are kept and some not: the accuracy is the mean over all ways to choose.
    """
    _, place = np.unique(-judged.confidence, return_inverse=True)
    right = np.bincount(place, weights=judged.is_right) / np.bincount(place)
    kept_right = np.cumsum(right[np.sort(place)])
    num_tracks = len(place)
    kept = [max(1, math.ceil(share * num_tracks - 1e-9)) for share in shares]
    return [float(kept_right[count - 1] / count) for count in kept]


def keep_from(judged: Judged, threshold: float) -> dict[str, Any]:
    """Return how many tracks have at least this probability, and the share of them that is right with its interval.

    The interval is Clopper and Pearson's (1934), of 95 %. Without a kept track, they are NaN.
    """
    is_kept = judged.confidence >= threshold
    num_kept, num_right = int(is_kept.sum()), int(judged.is_right[is_kept].sum())
    found = {"kept": num_kept, "tracks": len(is_kept), "precision": math.nan, "low": math.nan, "high": math.nan}
    if num_kept:
        low, high = scipy.stats.binomtest(num_right, num_kept).proportion_ci(_LEVEL, "exact")
        found |= {"precision": num_right / num_kept, "low": float(low), "high": float(high)}
    return found


def find_threshold(judged: Judged, precision: float) -> float | None:
    """Return the lowest probability from which on this share of tracks is right, to four decimals; None if none is."""
    scale = 10**_DECIMALS
    for threshold in np.unique(np.floor(judged.confidence * scale) / scale):
        is_kept = judged.confidence >= threshold
        if is_kept.any() and judged.is_right[is_kept].mean() >= precision:
            return float(threshold)
    return None


def describe_confidence(
    sets: Mapping[str, Judged], corrupted: Mapping[str, Sequence[Judged]], *, is_calibrated: bool
) -> dict[str, Any]:
    """Return what results.json says of confidence.

    `thresholds` has, for each of `PRECISIONS`, the threshold that gives it on the validation tracks, or None. `sets`
    and `corruptions` have, by name, the accuracy at each of `COVERAGES`, and what is kept from each threshold on.

    Args:
        sets: validation among them, else there are no thresholds.
        corrupted: the test tracks by kind of corruption; those of several severities are taken together, without an
            interval, since they are the same tracks.
        is_calibrated: whether the probabilities are by a temperature.
    """
    thresholds = {}
    if "validation" in sets:
        thresholds = {f"{wanted:g}": find_threshold(sets["validation"], wanted) for wanted in PRECISIONS}

    def describe(judged: Judged) -> dict[str, Any]:
        curve = zip(COVERAGES, accuracy_by_coverage(judged), strict=True)
        kept = {wanted: keep_from(judged, found) for wanted, found in thresholds.items() if found is not None}
        accuracies = {f"{share:g}": accuracy for share, accuracy in curve}
        return {"tracks": len(judged.is_right), "accuracy": accuracies, "kept": kept}

    pooled = {
        kind: describe(Judged(*map(np.concatenate, zip(*parts, strict=True)))) for kind, parts in corrupted.items()
    }
    for entry in pooled.values():
        for kept in entry["kept"].values():
            del kept["low"], kept["high"]
    return {
        "is_calibrated": is_calibrated,
        "thresholds": thresholds,
        "sets": {name: describe(judged) for name, judged in sets.items()},
        "corruptions": pooled,
    }


def tell_thresholds(confidence: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each of `PRECISIONS` on its threshold, and on what that keeps of every set.

    Args:
        confidence: as of `describe_confidence`, perhaps read from results.json.
    """
    sentences = []
    for wanted, threshold in confidence["thresholds"].items():
        if threshold is None:
            num_tracks = confidence["sets"]["validation"]["tracks"]
            sentences.append(
                f"For {show_percent(wanted)} right: no probability is high enough on the {num_tracks} tracks of "
                "validation."
            )
            continue
        kept = [_tell_kept(name, entry["kept"][wanted]) for name, entry in confidence["sets"].items()]
        sentences.append(f"For {show_percent(wanted)} right: --unknown_below {threshold:g} keeps {'; '.join(kept)}.")
    return sentences


def _tell_kept(name: str, kept: Mapping[str, Any]) -> str:
    text = f"{kept['kept']} of {kept['tracks']} tracks of {name}"
    if not kept["kept"]:
        return text
    right, low, high = (show_percent(kept[key]) for key in ("precision", "low", "high"))
    return f"{text}, {right} of them right (95 % interval {low} to {high})"


def show_percent(share: float | str) -> str:
    """Return a share, or the text of one, in percent, with one decimal where it has some."""
    return f"{round(100 * float(share), 1):g} %"
