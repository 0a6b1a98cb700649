"""A recording that was handed in, as everybody hears it: one channel, without and with white noise. T samples."""

import math

import numpy as np

from hf_utils.audio import Recording, hash_samples, inspect, read_header
from hf_utils.augmentation.corruptions import Corruption
from hf_utils.augmentation.pipeline import Augmentation
from hf_utils.sound_check import AudioError
from hf_utils.sound_files import Source

# Somebody waits for the answer, and others may wait behind.
MOST_SECONDS = 600


def read_recording(source: Source) -> Recording:
    """Return a recording that was read to its end. Raises AudioError as `inspect`, or because it is too long."""
    _expect_short(read_header(source)[1])  # a small file can hold hours
    recording = inspect(source)
    _expect_short(recording.num_samples / recording.sample_rate)
    return recording


def _expect_short(seconds: float) -> None:
    if seconds > MOST_SECONDS:
        minutes = math.ceil(seconds / 6) / 10  # never the limit itself
        raise AudioError(f"too long: {minutes:g} minutes, expected at most {MOST_SECONDS // 60}")


def read_mono(recording: Recording) -> np.ndarray:
    """Return the samples that classifiers get before they are resampled, float32 (T,): one channel, repaired."""
    return np.concatenate([*recording.blocks(recording.sample_rate)])


def add_white_noise(samples: np.ndarray, sample_rate: int, snr_db: float) -> np.ndarray:
    """Return samples (T,) with white noise, lowered as a whole where they would be above full scale.

    It is the corruption `white_noise` of Genre-C: the noise of a recording and a level is always the same.
    """
    spec = [{"AddGaussianSNR": {"min_snr_db": snr_db, "max_snr_db": snr_db, "p": 1.0}}]
    corruption = Corruption("white_noise", f"{snr_db:g}_db", snr_db, Augmentation(spec))
    return corruption(samples, sample_rate, hash_samples(samples)).samples
