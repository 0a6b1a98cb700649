"""Music of the tests: one tone per genre."""

from pathlib import Path

import numpy as np
import soundfile

GENRE_TONES_HZ = {"blues": 220.0, "hiphop": 440.0, "rock": 880.0}
TRACKS_PER_GENRE = 4
SAMPLE_RATE = 16000


def write_tone(path: Path, hz: float, seconds: float, seed: int) -> None:
    """Write a pure tone with a little noise, so that no two clips are the same recording."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).normal(0, 0.01, time.size)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hz * time) + noise, SAMPLE_RATE)
