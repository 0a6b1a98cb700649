"""Every gate closes on its fault and on no sound clip; duplicates are found whatever their loudness."""

import numpy as np
import pytest

from hf_utils.audio import hash_samples, resample, rms_db
from hf_utils.generation.clip_gates import find_duplicates, find_fault, fingerprint, longest_silence, set_loudness

RATE = 16000
SECONDS = 8
NUM_SAMPLES = SECONDS * RATE


def make_music(seed: int, num_samples: int = NUM_SAMPLES) -> np.ndarray:
    """Return notes of random pitch and length with a decay, over a drum of noise at a steady pulse."""
    generator = np.random.default_rng(seed)
    samples, time = np.zeros(num_samples), np.arange(num_samples) / RATE
    start = 0
    while start < num_samples:
        length = int(generator.integers(RATE // 8, RATE // 2))
        note = time[start : start + length] - time[start]
        pitch = 110 * 2 ** (generator.integers(0, 36) / 12)
        samples[start : start + length] += sum(np.sin(2 * np.pi * pitch * k * note) / k for k in (1, 2, 3)) * np.exp(
            -3 * note
        )
        start += length
    drum = generator.normal(0, 0.3, num_samples) * np.exp(-20 * (time % 0.5))
    return (0.2 * (samples + drum)).astype(np.float32)


def with_change(change) -> np.ndarray:
    samples = make_music(0)
    change(samples)
    return samples


def silence(start: float, stop: float):
    def change(samples):
        samples[int(start * RATE) : int(stop * RATE)] *= 1e-4

    return change


@pytest.mark.parametrize(
    ("samples", "fault"),
    [
        (make_music(0), None),
        (make_music(0)[:-1], "wrong length"),
        (make_music(0) * np.float32(1e-3), "silent"),
        (with_change(lambda x: x.__setitem__(5, np.nan)), "not finite"),
        (with_change(lambda x: x.__setitem__(5, np.inf)), "not finite"),
        (with_change(silence(2, 5.2)), "long silence"),
        (with_change(silence(2, 4.8)), None),
        (np.clip(make_music(0) * 20, -1, 1), "clipped"),
        (np.zeros(NUM_SAMPLES, np.float32), "silent"),
    ],
)
def test_each_fault_has_its_gate(samples, fault):
    assert find_fault(samples, NUM_SAMPLES, RATE) == fault


def test_short_clips_may_not_be_half_silent():
    samples = make_music(0, RATE)
    samples[: int(0.6 * RATE)] = 0
    assert find_fault(samples, RATE, RATE) == "long silence"


def test_the_longest_silence_is_measured_in_frames():
    samples = np.ones(RATE, np.float32)
    assert longest_silence(samples, RATE) == 0
    samples[800 : 800 + 4000] = 0
    samples[8000 : 8000 + 1600] = 0
    assert longest_silence(samples, RATE) == pytest.approx(0.25)


def test_loudness_is_exact_unless_full_scale_is_in_the_way():
    quiet = make_music(1) * np.float32(0.1)
    louder, gain_db = set_loudness(quiet, -20)
    assert rms_db(louder) == pytest.approx(-20, abs=0.01)
    assert gain_db == pytest.approx(-20 - rms_db(quiet), abs=0.01)
    limited, gain_db = set_loudness(quiet, -1)
    assert np.abs(limited).max() == pytest.approx(0.999, abs=1e-4) and rms_db(limited) < -1
    assert limited.dtype == np.float32


def test_duplicates_are_found_and_other_music_is_not():
    first, second = make_music(0), make_music(1)
    clips = [
        first,
        second,
        first,
        first * np.float32(0.5),
        first + np.random.default_rng(9).normal(0, 1e-3, first.size).astype(np.float32),
        resample(resample(second, RATE, 22050), 22050, RATE),
        make_music(2),
    ]
    found = find_duplicates([hash_samples(clip) for clip in clips], [fingerprint(clip) for clip in clips])
    assert found == {2: "duplicate", 3: "near duplicate", 4: "near duplicate", 5: "near duplicate"}
    assert find_duplicates([], []) == {}


def test_unrelated_clips_share_half_of_their_bits():
    """Also when they have the pulse of their drums in common."""
    prints = [
        np.unpackbits(np.frombuffer(bytes.fromhex(fingerprint(make_music(seed))), np.uint8)) for seed in range(20)
    ]
    shares = [np.mean(prints[a] != prints[b]) for a in range(20) for b in range(a)]
    assert min(shares) > 0.35 and np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert len(prints[0]) == 2048


def test_real_clips_are_no_near_duplicates_of_each_other(gtzan_mini):
    from hf_utils import audio

    paths = sorted((gtzan_mini / "disco").iterdir()) + sorted((gtzan_mini / "classical").iterdir())
    clips = [audio.load(path, RATE)[: 8 * RATE] for path in paths[:20]]
    assert not find_duplicates([hash_samples(clip) for clip in clips], [fingerprint(clip) for clip in clips])
    assert [find_fault(clip, 8 * RATE, RATE) for clip in clips] == [None] * len(clips)
