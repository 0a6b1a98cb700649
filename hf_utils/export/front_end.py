"""Features in PyTorch's operations only, so that a graph can hold them. B batch, S samples, T frames, F mel bands.

They are what the feature extractor of the model makes of windows of its length: whoever exports a model compares.
"""

from collections.abc import Callable

import torch
from torch import nn
from torchaudio.compliance.kaldi import get_mel_banks
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor

from hf_utils.export.power_spectrum import PowerSpectrum, RealSpectrogram
from hf_utils.models.families import AST_FRAME_SECONDS, AST_SHIFT_SECONDS, normalize_waveforms
from hf_utils.models.musicnn.feature_extraction_musicnn import MusiCNNFeatureExtractor
from hf_utils.models.spectrogram_cnn.feature_extraction_spectrogram_cnn import SpectrogramCNNFeatureExtractor

# Kaldi's, which torchaudio has as defaults of `fbank`.
_PREEMPHASIS = 0.97
_LOWEST_HZ = 20.0
_LOWEST_ENERGY = torch.finfo(torch.float32).eps


class FeatureFrontEnd(nn.Module):
    """Waveforms (B, S) -> the input of a model, by a function of torch."""

    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self._compute = compute

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self._compute(waveforms)


class SpectrogramFrontEnd(nn.Module):
    """Waveforms (B, S) -> what an extractor makes of spectrograms, which are computed by products of matrices."""

    def __init__(self, extractor: SpectrogramCNNFeatureExtractor | MusiCNNFeatureExtractor):
        super().__init__()
        self._extractor = extractor
        self.transforms = nn.ModuleList(map(RealSpectrogram, extractor.make_transforms()))

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self._extractor.compute_features(waveforms, self.transforms)


class FilterBanks(nn.Module):
    """(B, S) -> (B, T, F): Kaldi's log mel filter banks, as `ASTFeatureExtractor` makes them by torchaudio.

    The mean of each frame is subtracted, high frequencies are raised, then come a Hann window and the power. Raised in
    the whole waveform, a frame differs only at its first sample, which the window sets to zero.
    """

    def __init__(self, extractor: ASTFeatureExtractor):
        super().__init__()
        rate = extractor.sampling_rate
        self._hop, length = int(AST_SHIFT_SECONDS * rate), int(AST_FRAME_SECONDS * rate)
        n_fft = 1 << (length - 1).bit_length()
        self.power = PowerSpectrum(torch.hann_window(length, periodic=False), n_fft, self._hop)
        self.register_buffer("mean_kernel", torch.full((1, 1, length), 1 / length))
        up_to_half_the_rate, unwarped = 0.0, (100.0, -500.0, 1.0)
        banks, _ = get_mel_banks(extractor.num_mel_bins, n_fft, rate, _LOWEST_HZ, up_to_half_the_rate, *unwarped)
        # Kaldi has no place for the highest frequency.
        self.register_buffer("banks", self.power.place_filters(nn.functional.pad(banks, (0, 1)).T))
        self._mean, self._scale = (extractor.mean, 2 * extractor.std) if extractor.do_normalize else (0.0, 1.0)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        before = nn.functional.pad(waveforms[:, :-1], (1, 0))
        means = nn.functional.conv1d(waveforms[:, None], self.mean_kernel, stride=self._hop)[:, 0]
        power = self.power(waveforms - _PREEMPHASIS * before, offsets=(1 - _PREEMPHASIS) * means)
        energies = (self.banks @ power).clamp(min=_LOWEST_ENERGY)
        return (energies.log().transpose(1, 2) - self._mean) / self._scale


def make_front_end(feature_extractor) -> nn.Module | None:
    """Return waveforms (B, S) -> the features of an extractor whose code is known; None for any other.

    Subclasses may compute otherwise, so they do not count.
    """
    kind, extractor = type(feature_extractor), feature_extractor
    if kind in (SpectrogramCNNFeatureExtractor, MusiCNNFeatureExtractor):
        return SpectrogramFrontEnd(extractor)
    if kind is ASTFeatureExtractor:
        return FilterBanks(extractor)
    if kind is Wav2Vec2FeatureExtractor:
        return FeatureFrontEnd(normalize_waveforms if extractor.do_normalize else nn.Identity())
    return None
