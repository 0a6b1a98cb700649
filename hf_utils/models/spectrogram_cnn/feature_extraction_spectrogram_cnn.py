"""Log spectrograms for the spectrogram CNN. B batch, C channels, F frequency bins, T samples or frames."""

import functools
import math

import numpy as np
import torch
import torchaudio
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging

logger = logging.get_logger(__name__)

# What decides a spectrogram, beside the mean and the standard deviation that normalise it.
SETTINGS = (
    "spectrogram",
    "sampling_rate",
    "n_fft",
    "hop_length",
    "center",
    "num_mel_bins",
    "min_frequency_hz",
    "max_frequency_hz",
    "level_normalization",
)

# Smallest power that the logarithm sees: about the rounding noise of 16-bit audio, so silence is not minus infinity.
POWER_FLOOR = 1e-10
# With level normalisation: natural logarithm of the power, 80 dB, by which a bin lies below the loudest at most. An
# absolute floor alone would not move with the level, and so would shift the mean of quiet recordings.
LEVEL_RANGE = 8 * math.log(10)
# Image backbones halve their input five times, so a shorter spectrogram would shrink to nothing.
MIN_FRAMES = 32
# Windows of "multi_stft" in parts of n_fft: long ones separate tones, short ones separate beats.
MULTI_STFT_WINDOWS = (1, 2, 4)
# A larger batch is computed in pieces of about so many samples: what lies between the steps then stays in the
# processor's cache, and 16 windows of 10 s take less than half the time.
_PIECE_SAMPLES = 1 << 18


@functools.lru_cache(maxsize=16)
def _make_transforms(
    spectrogram, sampling_rate, n_fft, hop_length, center, num_mel_bins, min_frequency_hz, max_frequency_hz
):
    """Return one transform (B, T) -> (B, F, T) per channel: power spectra whose scale does not depend on the window.

    They are made once per process and setting, and kept outside the extractor, whose attributes end up in its JSON.
    """
    if spectrogram == "mel":
        mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=sampling_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            f_min=min_frequency_hz,
            f_max=max_frequency_hz,
            n_mels=num_mel_bins,
            normalized="window",
            center=center,
        )
        if (mel.mel_scale.fb.amax(dim=0) == 0).any():
            raise ValueError(
                f"num_mel_bins is {num_mel_bins}, too many for n_fft {n_fft} at {sampling_rate} Hz: some mel bands "
                "hold no frequency at all. Take fewer bands or a larger n_fft."
            )
        return (mel,)
    parts = (1,) if spectrogram == "stft" else MULTI_STFT_WINDOWS
    return tuple(
        torchaudio.transforms.Spectrogram(
            n_fft=n_fft, win_length=n_fft // part, hop_length=hop_length, normalized="window", center=center
        )
        for part in parts
    )


class SpectrogramCNNFeatureExtractor(SequenceFeatureExtractor):
    """Log spectrograms, normalised by one mean and one standard deviation; if asked for, first each to one level.

    Args:
        sampling_rate: of the waveforms, in Hz.
        spectrogram: "mel" (mel bands), "stft" (linear frequency), or "multi_stft" (three window lengths, n_fft and its
            half and quarter, as three channels of linear frequency).
        n_fft: length of the transform and of the longest window, in samples.
        hop_length: samples between frames.
        center: whether frame i lies around sample i * hop_length, with the waveform reflected at its ends; otherwise
            it begins there, every frame lies inside the waveform, and those of a part are those of the whole. True
            where a saved configuration does not say it; new models get False.
        num_mel_bins: mel bands ("mel" only).
        min_frequency_hz, max_frequency_hz: range that is kept; None for half the sampling rate.
        level_normalization: whether each window is made equally loud first: bins more than 80 dB below its loudest are
            raised to that, and the mean of its log spectrogram is subtracted. A gain then changes nothing.
        mean, std: of the log spectrograms that the model was trained on; None until they are computed.
        do_normalize: whether to subtract the mean and divide by the standard deviation.
    """

    model_input_names = ["input_values"]

    def __init__(
        self,
        sampling_rate=22050,
        spectrogram="mel",
        n_fft=2048,
        hop_length=512,
        center=True,
        num_mel_bins=128,
        min_frequency_hz=0.0,
        max_frequency_hz=None,
        level_normalization=False,
        mean=None,
        std=None,
        do_normalize=True,
        **kwargs,
    ):
        for name in ("feature_size", "padding_value", "return_attention_mask"):
            kwargs.pop(name, None)
        super().__init__(
            feature_size=1, sampling_rate=sampling_rate, padding_value=0.0, return_attention_mask=False, **kwargs
        )
        if spectrogram not in ("mel", "stft", "multi_stft"):
            raise ValueError(f"spectrogram is {spectrogram!r}, expected mel, stft or multi_stft")
        highest_hz = sampling_rate / 2 if max_frequency_hz is None else max_frequency_hz
        if not 0 <= min_frequency_hz < highest_hz <= sampling_rate / 2:
            raise ValueError(
                f"the frequency range is {min_frequency_hz} to {highest_hz} Hz, expected a rising range between 0 and "
                f"half the sampling rate, {sampling_rate / 2} Hz"
            )
        self.spectrogram = spectrogram
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.center = center
        self.num_mel_bins = num_mel_bins
        self.min_frequency_hz = min_frequency_hz
        self.max_frequency_hz = max_frequency_hz
        self.level_normalization = level_normalization
        self.mean = mean
        self.std = std
        self.do_normalize = do_normalize

    @property
    def num_channels(self) -> int:
        """Channels of the features."""
        return len(MULTI_STFT_WINDOWS) if self.spectrogram == "multi_stft" else 1

    def __call__(self, raw_speech, sampling_rate=None, return_tensors=None, **kwargs) -> BatchFeature:
        """Return `input_values` float32 (B, C, F, T).

        Args:
            raw_speech: one waveform (T,), or waveforms of equal length: (B, T) or a list. Waveforms that are too short
                for the backbone are repeated, never padded with silence.
            sampling_rate: of `raw_speech`, to be checked.
            return_tensors: "pt" for torch; numpy otherwise.

        Raises:
            ValueError: another sampling rate, unequal lengths, no samples, or no mean and standard deviation yet.
        """
        if sampling_rate is None:
            logger.warning_once("No sampling_rate was passed, so it cannot be checked.")
        elif sampling_rate != self.sampling_rate:
            raise ValueError(f"sampling_rate is {sampling_rate} Hz, expected {self.sampling_rate} Hz: resample first")
        if isinstance(raw_speech, (list, tuple)) and len({np.shape(waveform) for waveform in raw_speech}) > 1:
            raise ValueError("the waveforms have several lengths, expected equal ones: cut windows first")
        waveforms = np.atleast_2d(np.asarray(raw_speech, dtype=np.float32))
        if waveforms.ndim > 2 or waveforms.size == 0:
            raise ValueError(f"waveforms have shape {waveforms.shape}, expected mono with samples: (T,) or (B, T)")
        if waveforms.shape[1] < self.min_samples:
            waveforms = np.tile(waveforms, -(-self.min_samples // waveforms.shape[1]))[:, : self.min_samples]
        return BatchFeature({"input_values": self._compute(waveforms)}, tensor_type=return_tensors)

    @property
    def min_samples(self) -> int:
        """Shortest waveform that is not repeated."""
        outside = self.n_fft if self.center else 0
        return max(self.n_fft, self.n_fft - outside + (MIN_FRAMES - 1) * self.hop_length)

    @torch.no_grad()
    def _compute(self, waveforms: np.ndarray) -> np.ndarray:
        """Return the features (B, C, F, T) of waveforms (B, T)."""
        rows = max(1, _PIECE_SAMPLES // waveforms.shape[1])
        samples = torch.from_numpy(np.ascontiguousarray(waveforms))
        pieces = [self.compute_features(samples[i : i + rows]) for i in range(0, len(samples), rows)]
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).numpy()

    @property
    def _highest_hz(self) -> float:
        return self.sampling_rate / 2 if self.max_frequency_hz is None else self.max_frequency_hz

    def make_transforms(self) -> tuple:
        """Return torchaudio's transform of waveforms (B, T) to power (B, F, T) of each channel."""
        settings = {name: getattr(self, name) for name in SETTINGS if name != "level_normalization"}
        return _make_transforms(**settings | {"max_frequency_hz": self._highest_hz})

    def compute_features(self, waveforms: torch.Tensor, transforms=None) -> torch.Tensor:
        """Return the features (B, C, F, T) of waveforms (B, T) of `min_samples` or more, all in torch, for export.

        Args:
            waveforms: at the extractor's rate.
            transforms: others that compute what those of `make_transforms` do.

        Raises:
            ValueError: no mean and standard deviation yet.
        """
        power = torch.stack([transform(waveforms) for transform in transforms or self.make_transforms()], dim=1)
        if self.spectrogram != "mel":
            bin_hz = torch.arange(power.shape[2]) * self.sampling_rate / self.n_fft
            power = power[:, :, (bin_hz >= self.min_frequency_hz) & (bin_hz <= self._highest_hz)]
        return self.normalize(torch.log(power.clamp(min=POWER_FLOOR)))

    def normalize(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features (B, C, F, T) of whole windows, whose plain log spectrograms (B, C, F, T) are given.

        Raises:
            ValueError: no mean and standard deviation yet.
        """
        if self.level_normalization:
            loudest = features.amax((1, 2, 3), keepdim=True)
            features = torch.maximum(features, loudest - LEVEL_RANGE)
            features = features - features.mean((1, 2, 3), keepdim=True)
        if self.do_normalize:
            if self.mean is None or self.std is None:
                raise ValueError(
                    "the feature extractor has no mean and standard deviation: compute them on the training split, "
                    "or set do_normalize to False"
                )
            features = (features - self.mean) / self.std
        return features
