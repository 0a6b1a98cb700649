"""What a synthetic clip must pass before it is kept, its loudness, and duplicates. T samples, N clips, B bits.

Gates only catch what is broken; they judge no music. Whether a clip sounds like its genre is for the scores.
"""

from collections.abc import Sequence

import numpy as np

from hf_utils.audio import rms_db

MIN_RMS_DB = -50.0

# A frame this quiet counts as silent. 50 ms, so that a rest between two notes is not a silence.
SILENT_FRAME_DB = -60.0
FRAME_SECONDS = 0.05

# The longest silence: longer ones are endings or failures. In short clips no more than half of the clip.
MAX_SILENCE_SECONDS = 3.0

# The share of samples at full scale. Loud masters have some; a square wave of overload has many.
FULL_SCALE = 0.999
MAX_CLIPPED_SHARE = 0.01

# Highest peak after the loudness is set.
PEAK_LIMIT = 0.999

# Share of bits that may differ between two recordings that count as one. Unrelated ones differ in half of their 2,048
# bits, Haitsma and Kalker (2002) take 0.35; here a wrong alarm costs more than a miss.
NEAR_DUPLICATE_SHARE = 0.2
_FINGERPRINT_FRAMES, _FINGERPRINT_BANDS = 65, 33


def find_fault(samples: np.ndarray, num_samples: int, sample_rate: int) -> str | None:
    """Return why a mono clip (T,) that should have `num_samples` is rejected, or None if it is sound."""
    if not np.isfinite(samples).all():
        return "not finite"
    if samples.size != num_samples:
        return "wrong length"
    if rms_db(samples) <= MIN_RMS_DB:
        return "silent"
    if longest_silence(samples, sample_rate) > min(MAX_SILENCE_SECONDS, samples.size / sample_rate / 2):
        return "long silence"
    if np.mean(np.abs(samples) >= FULL_SCALE) > MAX_CLIPPED_SHARE:
        return "clipped"
    return None


def longest_silence(samples: np.ndarray, sample_rate: int) -> float:
    """Return the longest run of silent frames, in seconds."""
    frame = round(FRAME_SECONDS * sample_rate)
    frames = samples[: samples.size // frame * frame].reshape(-1, frame)
    quiet = np.mean(np.square(frames, dtype=np.float64), axis=1) <= 10 ** (SILENT_FRAME_DB / 10)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    return float(max(edges[1::2] - edges[::2], default=0) * frame / sample_rate)


def set_loudness(samples: np.ndarray, target_rms_db: float) -> tuple[np.ndarray, float]:
    """Return a sounding clip at `target_rms_db`, or as much below as full scale demands, and the gain in dB."""
    gain_db = target_rms_db - rms_db(samples)
    headroom_db = 20 * np.log10(PEAK_LIMIT / np.abs(samples).max())
    gain_db = float(min(gain_db, headroom_db))
    return (samples * np.float32(10 ** (gain_db / 20))).astype(np.float32), gain_db


def fingerprint(samples: np.ndarray) -> str:
    """Return 2,048 bits of a clip (T,) in hex: the signs of how its spectrum changes, in time and over frequency.

    Gain, coding and resampling leave nearly all of them; other music shares about half. After Haitsma and Kalker, "A
    highly robust audio fingerprinting system" (ISMIR 2002).
    """
    size = min(8192, 1 << int(np.log2(samples.size / 4)))
    starts = np.linspace(0, samples.size - size, _FINGERPRINT_FRAMES).astype(int)
    window = np.hanning(size).astype(np.float32)
    power = np.abs(np.fft.rfft(np.stack([samples[s : s + size] * window for s in starts]))) ** 2
    edges = np.geomspace(max(8, size // 256), power.shape[1] * 0.8, _FINGERPRINT_BANDS + 1).astype(int)
    bands = np.log(np.add.reduceat(power, edges, axis=1)[:, :-1] + 1e-20)
    slopes = np.diff(bands, axis=1)
    return np.packbits(np.diff(slopes, axis=0) > 0).tobytes().hex()


def find_duplicates(hashes: Sequence[str], fingerprints: Sequence[str]) -> dict[int, str]:
    """Return {index: "duplicate" or "near duplicate"} of the clips that repeat an earlier one of N.

    Args:
        hashes: digests of their samples.
        fingerprints: from `fingerprint`, all of equal length.
    """
    found, first = {}, {}
    if not fingerprints:
        return found
    bits = np.unpackbits(np.array([list(bytes.fromhex(f)) for f in fingerprints], np.uint8), axis=1)
    signs = bits.astype(np.float32) * 2 - 1
    for index, digest in enumerate(hashes):
        if first.setdefault(digest, index) != index:
            found[index] = "duplicate"
            continue
        # The product of signs counts equal bits minus different ones.
        different = (1 - signs[:index] @ signs[index] / signs.shape[1]) / 2
        different[list(found)] = 1
        if different.size and different.min() < NEAR_DUPLICATE_SHARE:
            found[index] = "near duplicate"
    return found
