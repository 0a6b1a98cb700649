"""Features in PyTorch's operations only, so that a graph can hold them. B batch, S samples, T frames, F mel bands.

They are what the feature extractor of the model makes of windows of its length: whoever exports a model compares.
"""

from collections.abc import Callable

import torch
from torch import nn
from torchaudio.compliance.kaldi import get_mel_banks
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor

from hf_utils.models.families import AST_FRAME_SECONDS, AST_SHIFT_SECONDS, normalize_waveforms
from hf_utils.models.musicnn.feature_extraction_musicnn import MusiCNNFeatureExtractor
from hf_utils.models.spectrogram_cnn.feature_extraction_spectrogram_cnn import SpectrogramCNNFeatureExtractor

# Kaldi's, which torchaudio has as defaults of `fbank`.
_PREEMPHASIS = 0.97
_LOWEST_HZ = 20.0
_LOWEST_ENERGY = torch.finfo(torch.float32).eps


class FeatureFrontEnd(nn.Module):
    """Waveforms (B, S) -> the input of a model. A module, so that its operations are known in a graph by its name."""

    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.compute = compute

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self.compute(waveforms)


class FilterBanks(nn.Module):
    """(B, S) -> (B, T, F): Kaldi's log mel filter banks, as `ASTFeatureExtractor` makes them by torchaudio.

    All that happens to a frame before its power is linear: its mean is subtracted, high frequencies are raised, a Hann
    window, the Fourier transform. So these together are one convolution.
    """

    def __init__(self, extractor: ASTFeatureExtractor):
        super().__init__()
        rate = extractor.sampling_rate
        self.hop, length = int(AST_SHIFT_SECONDS * rate), int(AST_FRAME_SECONDS * rate)
        n_fft = 1 << (length - 1).bit_length()
        # Row i is what becomes of a frame that is 1 at sample i and 0 elsewhere.
        frames = torch.eye(length, dtype=torch.float64)
        frames = frames - frames.mean(1, keepdim=True)
        before = nn.functional.pad(frames[None], (1, 0), mode="replicate")[0, :, :-1]
        window = torch.hann_window(length, periodic=False, dtype=torch.float64)
        spectra = torch.fft.rfft((frames - _PREEMPHASIS * before) * window, n=n_fft)
        kernel = torch.cat([spectra.real, spectra.imag], 1).T[:, None]
        self.register_buffer("kernel", kernel.float().contiguous())
        up_to_half_the_rate, unwarped = 0.0, (100.0, -500.0, 1.0)
        banks, _ = get_mel_banks(extractor.num_mel_bins, n_fft, rate, _LOWEST_HZ, up_to_half_the_rate, *unwarped)
        # Kaldi has no place for the highest frequency.
        self.register_buffer("banks", nn.functional.pad(banks, (0, 1)))
        self.mean, self.scale = (extractor.mean, 2 * extractor.std) if extractor.do_normalize else (0.0, 1.0)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        real, imaginary = nn.functional.conv1d(waveforms[:, None], self.kernel, stride=self.hop).chunk(2, dim=1)
        power = real.square() + imaginary.square()
        energies = (self.banks @ power).clamp(min=_LOWEST_ENERGY)
        return (energies.log().transpose(1, 2) - self.mean) / self.scale


def make_front_end(feature_extractor) -> FeatureFrontEnd | None:
    """Return the features of an extractor whose code is known; None for any other.

    Subclasses may compute otherwise, so they do not count.
    """
    kind, extractor = type(feature_extractor), feature_extractor
    if kind in (SpectrogramCNNFeatureExtractor, MusiCNNFeatureExtractor):
        return FeatureFrontEnd(extractor.compute_features)
    if kind is ASTFeatureExtractor:
        return FeatureFrontEnd(FilterBanks(extractor))
    if kind is Wav2Vec2FeatureExtractor:
        return FeatureFrontEnd(normalize_waveforms if extractor.do_normalize else nn.Identity())
    return None
