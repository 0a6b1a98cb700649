"""Log-mel spectrograms for MusiCNN. B batch, T samples or frames, F mel bands."""

import functools

import numpy as np
import torch
import torchaudio
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging

logger = logging.get_logger(__name__)


@functools.lru_cache(maxsize=16)
def _make_transform(sampling_rate, n_fft, hop_length, num_mel_bins):
    """Return the transform (B, T) -> (B, F, T): Slaney's mel scale and areas, as librosa has them by default.

    It is made once per process and setting, and kept outside the extractor, whose attributes end up in its JSON.
    """
    return torchaudio.transforms.MelSpectrogram(
        sample_rate=sampling_rate,
        n_fft=n_fft,
        hop_length=hop_length,
        n_mels=num_mel_bins,
        norm="slaney",
        mel_scale="slaney",
        center=False,
    )


class MusiCNNFeatureExtractor(SequenceFeatureExtractor):
    """log10(1 + 10000 x) of the power x in mel bands, in float32: half precision overflows on loud music.

    Frames lie inside the waveform, which is not extended at its ends.

    Args:
        sampling_rate: of the waveforms, in Hz.
        n_fft: length of a frame, in samples.
        hop_length: samples between frames.
        num_mel_bins: mel bands, from 0 Hz to half the sampling rate.
    """

    model_input_names = ["input_values"]

    def __init__(self, sampling_rate=16000, n_fft=512, hop_length=256, num_mel_bins=96, **kwargs):
        for name in ("feature_size", "padding_value", "return_attention_mask"):
            kwargs.pop(name, None)
        super().__init__(
            feature_size=num_mel_bins,
            sampling_rate=sampling_rate,
            padding_value=0.0,
            return_attention_mask=False,
            **kwargs,
        )
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.num_mel_bins = num_mel_bins

    def __call__(self, raw_speech, sampling_rate=None, return_tensors=None, **kwargs) -> BatchFeature:
        """Return `input_values` float32 (B, T, F).

        Args:
            raw_speech: one waveform (T,), or waveforms of equal length: (B, T) or a list. Waveforms that are shorter
                than a frame are repeated, never padded with silence.
            sampling_rate: of `raw_speech`, to be checked.
            return_tensors: "pt" for torch; numpy otherwise.

        Raises:
            ValueError: another sampling rate, unequal lengths, or no samples.
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
        if waveforms.shape[1] < self.n_fft:
            waveforms = np.tile(waveforms, -(-self.n_fft // waveforms.shape[1]))[:, : self.n_fft]
        return BatchFeature({"input_values": self.compute_frames(waveforms)}, tensor_type=return_tensors)

    @torch.no_grad()
    def compute_frames(self, waveforms: np.ndarray) -> np.ndarray:
        """Return the frames (B, T, F) that lie inside waveforms (B, T): `n_fft` samples each, `hop_length` apart."""
        return self.compute_features(torch.from_numpy(np.ascontiguousarray(waveforms))).numpy()

    def make_transforms(self) -> tuple:
        """Return torchaudio's transform of waveforms (B, T) to power (B, F, T), and nothing else."""
        return (_make_transform(self.sampling_rate, self.n_fft, self.hop_length, self.num_mel_bins),)

    def compute_features(self, waveforms: torch.Tensor, transforms=None) -> torch.Tensor:
        """Return the same frames (B, T, F) of waveforms (B, T); all in torch, for export.

        Args:
            waveforms: at the extractor's rate.
            transforms: another one that computes what that of `make_transforms` does.
        """
        (transform,) = transforms or self.make_transforms()
        return torch.log10(10000 * transform(waveforms).transpose(1, 2) + 1).contiguous()
