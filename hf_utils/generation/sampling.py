"""How a generator samples clips: the numbers that go to it, and that every clip records."""

import dataclasses
import math

import numpy as np


class NonFiniteError(ArithmeticError):
    """A batch with NaN or infinite numbers; `audio` is what came of it, (B, C, T) float32."""

    def __init__(self, message: str, audio: np.ndarray):
        super().__init__(message)
        self.audio = audio


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Attributes that a back end has no use for are None.

    Attributes:
        clip_seconds: length of a clip, without its prompt.
        prompt_seconds: length of the real audio that it goes on from; 0 for none.
        guidance_scale: weight of the text; 1 switches guidance off.
        top_k: number of most likely tokens that are drawn from.
        temperature: of the softmax.
        tokens: steps of the decoder of a token model, one after the other.
        inference_steps: denoising steps of a diffusion model.
    """

    clip_seconds: float
    prompt_seconds: float
    guidance_scale: float
    top_k: int | None = None
    temperature: float | None = None
    tokens: int | None = None
    inference_steps: int | None = None

    @property
    def steps(self) -> int:
        """Passes through the network per batch, one after the other."""
        return self.tokens or self.inference_steps

    def native_samples(self, sample_rate: int) -> int:
        """Return the fewest samples at `sample_rate` Hz that hold a clip."""
        return math.ceil(self.clip_seconds * sample_rate - 1e-6)


def expect_finite(audio: np.ndarray) -> np.ndarray:
    """Return `audio`. Raises NonFiniteError unless all of it is finite."""
    if not np.isfinite(audio).all():
        raise NonFiniteError("audio that is not finite", audio)
    return audio
