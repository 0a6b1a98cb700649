"""Power spectra by matrices against NumPy's transform of every frame."""

import math

import numpy as np
import pytest
import torch
from torchaudio.transforms import MelSpectrogram, Spectrogram

from hf_utils.export.power_spectrum import PowerSpectrum, RealSpectrogram


@pytest.mark.parametrize(
    ("length", "n_fft", "hop"),
    [
        (64, 64, 16),  # 8 times 8
        (128, 128, 48),  # 8 times 16
        (50, 64, 20),  # a window that is shorter than the transform, as AST has
        (64, 64, 13),  # no common divisor
        (90, 90, 30),  # no power of two
        (35, 35, 7),  # odd: there is no frequency of half the rate
        (7, 7, 3),  # a prime
    ],
)
def test_power_is_that_of_each_frame(length, n_fft, hop):
    rng = np.random.default_rng(0)
    window, waveforms = rng.random(length), rng.normal(size=(2, 3 * n_fft + 5)).astype(np.float32)
    starts = range(0, waveforms.shape[1] - length + 1, hop)
    frames = np.stack([waveforms[:, start : start + length] for start in starts], axis=1)
    offsets = rng.normal(size=frames.shape[:2]).astype(np.float32)
    spectrum = PowerSpectrum(torch.from_numpy(window), n_fft, hop)
    places = spectrum.find_places()
    assert places.tolist() == [spectrum.bins.tolist().index(k) for k in range(n_fft // 2 + 1)]
    for subtracted in (None, offsets):
        moved = frames if subtracted is None else frames - subtracted[:, :, None]
        expected = np.abs(np.fft.rfft(moved * window, n_fft)) ** 2
        found = spectrum(torch.from_numpy(waveforms), None if subtracted is None else torch.from_numpy(subtracted))
        np.testing.assert_allclose(found[:, places].transpose(1, 2), expected, atol=1e-4 * expected.max())
        filters = rng.random((n_fft // 2 + 1, 3)).astype(np.float32)
        bands = (spectrum.place_filters(torch.from_numpy(filters)) @ found).transpose(1, 2)
        np.testing.assert_allclose(bands, expected @ filters, rtol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"center": False}, {"normalized": "window"}, {"win_length": 127}])
def test_spectrograms_are_torchaudios(settings):
    waveforms = torch.randn(2, 2000, generator=torch.manual_seed(0))
    mel = MelSpectrogram(16000, n_fft=256, hop_length=96, n_mels=20, **settings)
    for transform in (mel, Spectrogram(n_fft=256, hop_length=96, **settings)):
        torch.testing.assert_close(RealSpectrogram(transform)(waveforms), transform(waveforms), rtol=1e-3, atol=1e-5)


def test_steps_are_short():
    """Of 2,048 samples each product is over 64: a transform at once would be over 2,048."""
    spectrum = PowerSpectrum(torch.hann_window(2048), 2048, 512)
    assert spectrum.first.shape[2] == spectrum.real.shape[1] == 64
    assert math.prod(spectrum.first.shape) < 2048 * 2050 / 20
