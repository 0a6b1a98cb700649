"""What a room, a telephone line and a network do to music: transforms that audiomentations lacks. T samples.

They follow its conventions: parameters are drawn from the generators that are seeded for it, uniformly from `min_` to
`max_`, and noted in `parameters`.
"""

import random

import numpy as np
from audiomentations.core.transforms_interface import BaseWaveformTransform
from scipy.signal import oaconvolve


class SyntheticReverb(BaseWaveformTransform):
    """A room, as noise that decays exponentially after the direct sound (Moorer 1979, "About This Reverberation").

    The noise is white and Gaussian, and as loud as the direct sound: as heard at the critical distance, where both are
    equal. The room has no walls that absorb treble, and nothing that comes before the music rings in it.
    """

    def __init__(self, min_decay_seconds: float = 0.2, max_decay_seconds: float = 2.0, p: float = 0.5):
        """Take the range of the decay time, RT60: until the room is 60 dB below its first sound."""
        super().__init__(p)
        if not 0 < min_decay_seconds <= max_decay_seconds:
            raise ValueError("expected decays longer than 0 s")
        self.min_decay_seconds, self.max_decay_seconds = min_decay_seconds, max_decay_seconds

    def randomize_parameters(self, samples: np.ndarray, sample_rate: int) -> None:
        """Draw the decay time and the seed of the room."""
        super().randomize_parameters(samples, sample_rate)
        if self.parameters["should_apply"]:
            self.parameters["decay_seconds"] = random.uniform(self.min_decay_seconds, self.max_decay_seconds)
            self.parameters["room_seed"] = random.getrandbits(32)

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return float32 samples (T,) with the reverberation of the room: its tail after the end is cut off."""
        seconds = np.arange(1, max(2, round(self.parameters["decay_seconds"] * sample_rate))) / sample_rate
        room = np.random.default_rng(self.parameters["room_seed"]).standard_normal(seconds.size)
        room *= 10 ** (-3 * seconds / self.parameters["decay_seconds"])
        room /= np.sqrt(np.square(room).sum())
        wet = oaconvolve(samples.astype(np.float64), np.concatenate([[1.0], room]))
        return wet[: samples.size].astype(np.float32)


class MuLaw(BaseWaveformTransform):
    """Samples rounded on a logarithmic scale, as in telephony (ITU-T G.711 has 8 bits), mu = 2^bits - 1."""

    def __init__(self, min_bit_depth: int = 4, max_bit_depth: int = 8, p: float = 0.5):
        """Take the range of the bits per sample."""
        super().__init__(p)
        if not 2 <= min_bit_depth <= max_bit_depth <= 16:
            raise ValueError("expected 2 to 16 bits")
        self.min_bit_depth, self.max_bit_depth = min_bit_depth, max_bit_depth

    def randomize_parameters(self, samples: np.ndarray, sample_rate: int) -> None:
        """Draw the bits per sample."""
        super().randomize_parameters(samples, sample_rate)
        if self.parameters["should_apply"]:
            self.parameters["bit_depth"] = random.randint(self.min_bit_depth, self.max_bit_depth)

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return float32 samples (T,); what is above full scale is clipped."""
        mu = 2 ** self.parameters["bit_depth"] - 1
        # The code 0 stands for silence, which stays silent: of 2^bits codes one goes unused.
        steps = 2 ** (self.parameters["bit_depth"] - 1) - 1
        magnitude = np.minimum(np.abs(samples.astype(np.float64)), 1)
        code = np.round(np.log1p(mu * magnitude) / np.log1p(mu) * steps)
        return (np.sign(samples) * np.expm1(code / steps * np.log1p(mu)) / mu).astype(np.float32)


class DropFrames(BaseWaveformTransform):
    """Frames that are lost on the way, at random places, and are silent: a stream that nobody repairs."""

    def __init__(self, min_share: float = 0.01, max_share: float = 0.2, frame_seconds: float = 0.02, p: float = 0.5):
        """Take the range of the share of lost frames, and the length of a frame."""
        super().__init__(p)
        if not 0 < min_share <= max_share <= 1:
            raise ValueError("expected shares above 0, up to 1")
        if not frame_seconds > 0:
            raise ValueError("expected frames longer than 0 s")
        self.min_share, self.max_share, self.frame_seconds = min_share, max_share, frame_seconds

    def randomize_parameters(self, samples: np.ndarray, sample_rate: int) -> None:
        """Draw the share of lost frames, and the seed of which are lost."""
        super().randomize_parameters(samples, sample_rate)
        if self.parameters["should_apply"]:
            self.parameters["share"] = random.uniform(self.min_share, self.max_share)
            self.parameters["loss_seed"] = random.getrandbits(32)

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return float32 samples (T,), zero in the lost frames; of the share, rounded, at least one frame is lost."""
        length = max(1, round(self.frame_seconds * sample_rate))
        num_frames = -(-samples.size // length)
        num_lost = max(1, round(self.parameters["share"] * num_frames))
        lost = np.zeros(num_frames, dtype=bool)
        lost[np.random.default_rng(self.parameters["loss_seed"]).choice(num_frames, num_lost, replace=False)] = True
        return np.where(np.repeat(lost, length)[: samples.size], np.float32(0), samples)
