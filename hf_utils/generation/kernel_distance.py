"""Distance of two sets of embeddings by an unbiased kernel estimate. N and M vectors of D dimensions.

Fréchet distances are not here: at a hundred clips per genre their bias is larger than what they are to measure.
"""

import numpy as np


def median_bandwidth(vectors: np.ndarray) -> float:
    """Return the median distance between two of (N, D) vectors: the usual width of the kernel."""
    squares = squared_distances(vectors, vectors)
    return float(np.sqrt(np.median(squares[np.triu_indices(len(vectors), 1)])))


def kernel_distance(first: np.ndarray, second: np.ndarray, bandwidth: float) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy of (N, D) and (M, D), Gaussian kernel.

    Its mean is 0 for two samples of one distribution, so it can be a little below 0. Gretton et al. 2012 (JMLR 13),
    lemma 6.

    Raises:
        ValueError: fewer than two vectors in a set.
    """
    num_first, num_second = len(first), len(second)
    if min(num_first, num_second) < 2:
        raise ValueError(f"expected two vectors or more in each set, found {num_first} and {num_second}")

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.exp(-squared_distances(x, y) / (2 * bandwidth**2))

    # The diagonal, each vector with itself, is what makes the plain estimate biased.
    within_first = (kernel(first, first).sum() - num_first) / (num_first * (num_first - 1))
    within_second = (kernel(second, second).sum() - num_second) / (num_second * (num_second - 1))
    return float(within_first + within_second - 2 * kernel(first, second).mean())


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (N, M) squared Euclidean distances."""
    squares = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1) - 2 * first @ second.T
    return np.maximum(squares, 0)
