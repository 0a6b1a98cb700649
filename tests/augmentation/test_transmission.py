"""Rooms, mu-law and lost frames: against what their definitions say, sample by sample."""

import math

import numpy as np
import pytest

from hf_utils.augmentation.pipeline import Augmentation
from hf_utils.errors import UserError

RATE = 16_000


def apply(transform, parameters, samples, seed=0):
    return Augmentation([{transform: {**parameters, "p": 1.0}}])(samples, RATE, seed)


def noise(seconds):
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


@pytest.mark.parametrize("decay", [0.25, 1.0])
def test_room_is_as_loud_as_the_direct_sound_and_decays_by_60_db(decay):
    impulse = np.zeros(3 * RATE, dtype=np.float32)
    impulse[1000] = 0.5
    clip = apply("SyntheticReverb", {"min_decay_seconds": decay, "max_decay_seconds": decay}, impulse)
    assert np.abs(clip.samples[:1000]).max() < 1e-12
    direct, room = clip.samples[1000], clip.samples[1001:]
    assert np.square(room).sum() == pytest.approx(direct**2, rel=1e-3)
    # Energy that is yet to come falls on a line (Schroeder 1965): 30 dB in half of the decay time.
    left_db = 10 * np.log10(np.cumsum(np.square(room, dtype=np.float64)[::-1])[::-1])
    start = round(0.02 * RATE)
    fallen = left_db[start] - left_db[start + round(decay / 2 * RATE)]
    assert fallen == pytest.approx(30, abs=1.5)


def test_rooms_of_two_tracks_differ_and_that_of_one_does_not():
    parameters, samples = {"min_decay_seconds": 0.5, "max_decay_seconds": 0.5}, noise(1)
    first, again, other = (apply("SyntheticReverb", parameters, samples, seed).samples for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.allclose(first, other, atol=0.01)


@pytest.mark.parametrize("bits", [8, 4])
def test_mu_law_rounds_the_logarithm(bits):
    samples = np.concatenate([[0, 1, -1, 1e-6], noise(0.1)]).astype(np.float32)
    heard = apply("MuLaw", {"min_bit_depth": bits, "max_bit_depth": bits}, samples).samples
    mu, steps = 2**bits - 1, 2 ** (bits - 1) - 1
    levels = [math.copysign(((1 + mu) ** (abs(code) / steps) - 1) / mu, code) for code in range(-steps, steps + 1)]
    compressed = [math.copysign(math.log(1 + mu * abs(x)) / math.log(1 + mu), x) for x in samples.tolist()]
    expected = [levels[round(value * steps) + steps] for value in compressed]
    assert np.allclose(heard, expected, rtol=1e-6, atol=0)
    assert len(np.unique(heard)) <= 2**bits - 1


def test_as_many_frames_are_lost_as_asked_for_and_the_others_untouched():
    samples = noise(2.005)  # 100 frames of 20 ms, and a quarter of one
    clip = apply("DropFrames", {"min_share": 0.1, "max_share": 0.1}, samples)
    frames, before = clip.samples[: 100 * 320].reshape(100, 320), samples[: 100 * 320].reshape(100, 320)
    lost = ~frames.any(axis=1)
    assert lost.sum() + (not clip.samples[100 * 320 :].any()) == 10
    assert np.array_equal(frames[~lost], before[~lost])


@pytest.mark.parametrize(
    ("transform", "parameters"),
    [
        ("SyntheticReverb", {"min_decay_seconds": 0.0}),
        ("MuLaw", {"min_bit_depth": 1}),
        ("DropFrames", {"min_share": 0.0}),
        ("DropFrames", {"frame_seconds": 0.0}),
    ],
)
def test_values_that_cannot_work_are_refused(transform, parameters):
    with pytest.raises(UserError, match=f"{transform} does not work with .*{next(iter(parameters))}"):
        Augmentation([{transform: {**parameters, "p": 1.0}}])
