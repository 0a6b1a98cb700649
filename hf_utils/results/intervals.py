"""Bootstrap over tracks: resamples and intervals. B resamples, N tracks."""

import numpy as np

from hf_utils.seeding import derive_seed

LEVEL = 0.05


def resample_tracks(num_tracks: int, num_resamples: int, seed: int) -> np.ndarray:
    """Return (B, N) float64: how often each track is in each bootstrap resample of N tracks."""
    generator = np.random.default_rng(derive_seed(seed, "tracks", num_tracks))
    return generator.multinomial(num_tracks, np.full(num_tracks, 1 / num_tracks), size=num_resamples).astype(float)


def percentile_interval(resampled: np.ndarray) -> tuple[float, float]:
    """Return the middle 95 % of (B,) bootstrapped scores; resamples without a score (NaN) are left out."""
    if np.isnan(resampled).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(resampled, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)
