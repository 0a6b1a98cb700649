"""White Gaussian noise at an exact SNR, from a generator that is fast enough to run beside training."""

import audiomentations
import numpy as np


class AddGaussianSNR(audiomentations.AddGaussianSNR):
    """The transform of audiomentations, with float32 noise from NumPy's newer generator: three times as fast.

    The old global generator, which it uses, makes float64 numbers one by one; they took longer than decoding and
    encoding the clip together. It still gives the seed of the new one.
    """

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return float32 samples (T,) with noise of standard deviation `parameters["noise_std"]`."""
        generator = np.random.Generator(np.random.SFC64(np.random.randint(0, 2**32, size=2, dtype=np.uint64)))
        noise = generator.standard_normal(samples.shape, dtype=np.float32)
        noise *= np.float32(self.parameters["noise_std"])
        noise += samples
        return noise
