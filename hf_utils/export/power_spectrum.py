"""Power spectra by convolutions and products of matrices. B batch, S samples, T frames, F frequencies, M mel bands.

ONNX has operations for Fourier transforms, but ONNX Runtime is slow at them, and complex numbers become many steps.
"""

import math

import torch
from torch import nn
from torchaudio.transforms import MelSpectrogram, Spectrogram


class PowerSpectrum(nn.Module):
    """Waveforms (B, S) -> power (B, len(bins), T) of the frames that lie inside, each frequency once or twice.

    A transform of N = P Q samples is one of every Q-th sample, and then one of the Q results (Cooley and Tukey 1965,
    doi 10.1090/S0025-5718-1965-0178586-1). With n = Q p + q, k = i + P j and e(x) = exp(-2 pi sqrt(-1) x):

        X[k] = sum over q of e(q j / Q) (sum over p of e(n i / N) window[n] frame[n])

    The inner sum is a convolution for each q, and the outer one a product of matrices. Half of all i are enough, since
    X[N - k] is the conjugate of X[k]. If N and `hop` have no common divisor, Q is 1: right, but slower.

    Attributes:
        bins: k at each place, from 0 to N / 2.
    """

    def __init__(self, window: torch.Tensor, n_fft: int, hop: int):
        """Prepare for frames `hop` apart, multiplied by `window` and then filled up with zeros to `n_fft` samples."""
        super().__init__()
        common = math.gcd(len(window), n_fft, hop)
        inner = max(divisor for divisor in range(1, math.isqrt(n_fft) + 1) if common % divisor == 0)  # Q
        outer = n_fft // inner  # P
        n = torch.arange(len(window)).reshape(-1, inner)
        i, j = torch.arange(outer // 2 + 1), torch.arange(inner)
        first = (_rotations(n[..., None] * i, n_fft) * window.double()[n, None]).permute(1, 2, 0)
        second = _rotations(j[:, None] * j, inner)
        self._inner, self._step = inner, hop // inner
        self.register_buffer("phases", torch.eye(inner)[:, None])
        self.register_buffer("first", torch.stack([first.real, first.imag], 1).flatten(0, 2)[:, None].float())
        self.register_buffer("real", torch.stack([second.real, -second.imag], 2).flatten(1).float())
        self.register_buffer("imaginary", torch.stack([second.imag, second.real], 2).flatten(1).float())
        k = (i + outer * j[:, None]).flatten()
        self.bins = torch.minimum(k, n_fft - k)

    def forward(self, waveforms: torch.Tensor, offsets: torch.Tensor | None = None) -> torch.Tensor:
        """Return the power (B, len(bins), T); `offsets` (B, T) are first subtracted from all samples of a frame."""
        columns = nn.functional.conv1d(waveforms[:, None], self.phases, stride=self._inner)
        partial = nn.functional.conv1d(columns, self.first, stride=self._step, groups=self._inner)
        if offsets is not None:
            partial = partial - self.first.sum(2) * offsets[:, None]
        rows = partial.reshape(partial.shape[0], 2 * self._inner, -1)
        power = (self.real @ rows).square() + (self.imaginary @ rows).square()
        return power.reshape(partial.shape[0], len(self.bins), -1)

    def place_filters(self, filters: torch.Tensor) -> torch.Tensor:
        """Return filters (F, M) as (M, len(bins)), by which power is to be multiplied from the left."""
        return (filters[self.bins] / torch.bincount(self.bins)[self.bins, None]).T.contiguous()

    def find_places(self) -> torch.Tensor:
        """Return the place of each frequency, (F,)."""
        return (self.bins == torch.arange(self.bins.max() + 1)[:, None]).int().argmax(1)


def _rotations(steps: torch.Tensor, per_turn: int) -> torch.Tensor:
    """Return e(steps / per_turn) as complex numbers; whole turns are left out first, so that no digits are lost."""
    return torch.exp(-2j * math.pi * (steps % per_turn).double() / per_turn)


class RealSpectrogram(nn.Module):
    """(B, S) -> (B, F or M, T): what torchaudio's `Spectrogram` or `MelSpectrogram` computes, without complex numbers.

    Of those with power 2 that are not padded, and with a window's norm or none.
    """

    def __init__(self, transform: Spectrogram | MelSpectrogram):
        super().__init__()
        is_mel = isinstance(transform, MelSpectrogram)
        spectrogram = transform.spectrogram if is_mel else transform
        window, n_fft = spectrogram.window, spectrogram.n_fft
        if spectrogram.normalized == "window":
            window = window / window.norm()
        before = (n_fft - len(window)) // 2
        window = nn.functional.pad(window, (before, n_fft - len(window) - before))
        self._outside = n_fft // 2 if spectrogram.center else 0
        self.power = PowerSpectrum(window, n_fft, spectrogram.hop_length)
        self.register_buffer("filters", self.power.place_filters(transform.mel_scale.fb) if is_mel else None)
        self.register_buffer("places", None if is_mel else self.power.find_places())

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        if self._outside:
            waveforms = nn.functional.pad(waveforms, (self._outside, self._outside), mode="reflect")
        power = self.power(waveforms)
        return power.index_select(1, self.places) if self.filters is None else self.filters @ power
