"""One number that makes probabilities honest: a temperature (Guo et al. 2017, arXiv 1706.04599).

The logits of every window are divided by it before the softmax; the probabilities of a track are the mean of its
windows', as without it. So a window keeps its likeliest genre, and a track may get another one where its windows
disagree. W windows, N tracks, K genres.
"""

import math

import numpy as np
import scipy.optimize

from hf_utils.results.metrics import log_loss, softmax, vote

# Where a temperature is looked for: beyond, probabilities are 0 and 1, or the same for all genres.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
_GRID_POINTS = 41
_DIGITS = 4


def apply_temperature(logits: np.ndarray, track_index: np.ndarray, temperature: float) -> np.ndarray:
    """Return (N, K) probabilities of tracks from (W, K) logits of windows; `track_index` (W,) has each one's track."""
    return vote(softmax(np.asarray(logits, np.float64) / temperature), track_index, "soft")


def fit_temperature(logits: np.ndarray, track_index: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the temperature with the least log-loss of tracks, to four digits.

    None where the log-loss still falls at an end of the range: where all tracks are right, the less the temperature
    the better, and nothing is known of confidence.

    Args:
        logits, track_index: as of `apply_temperature`.
        labels: (N,) true genres.
    """

    def lose(log_temperature: float) -> float:
        return log_loss(apply_temperature(logits, track_index, math.exp(log_temperature)), labels)

    # The loss of one window has one minimum, but that of a mean over windows may have several.
    grid = np.linspace(math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE), _GRID_POINTS)
    best = int(np.argmin([lose(point) for point in grid]))
    if best in (0, _GRID_POINTS - 1):
        return None
    found = scipy.optimize.minimize_scalar(lose, bounds=(grid[best - 1], grid[best + 1]), method="bounded")
    return float(f"{math.exp(found.x):.{_DIGITS}g}")
