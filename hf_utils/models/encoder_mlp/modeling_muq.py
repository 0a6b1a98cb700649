"""MuQ without its head for pretraining (Zhu et al. 2025, arXiv 2501.01108), after its Python package muq 0.1.0.

B batch, S samples, F mel bands, C channels, T time steps, H hidden size.
"""

import functools

import torch
import torchaudio
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerEncoder,
    Wav2Vec2ConformerPreTrainedModel,
)
from transformers.utils.output_capturing import capture_outputs

from .configuration_muq import MuQConfig


@functools.lru_cache(maxsize=16)
def _make_spectrogram(sample_rate, n_fft, hop_length, num_mel_bins, device):
    """Return the transform (B, S) -> (B, F, T), in dB.

    It is kept outside the model, whose buffers `from_pretrained` would leave empty: MuQ's checkpoints have none of it.
    """
    mel = torchaudio.transforms.MelSpectrogram(sample_rate, n_fft=n_fft, hop_length=hop_length, n_mels=num_mel_bins)
    return nn.Sequential(mel, torchaudio.transforms.AmplitudeToDB()).to(device)


class MuQConvolution(nn.Module):
    """(B, C, F, T) -> (B, C', F / 2, T / stride): two convolutions and a third beside them."""

    def __init__(self, in_channels: int, channels: int, time_stride: int):
        super().__init__()
        stride = (2, time_stride)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(in_channels, channels, 3, stride, padding=1)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return (self.bn2(self.conv2(self.bn1(self.conv1(hidden)).relu())) + self.bn3(self.conv3(hidden))).relu()


class MuQSubsampling(nn.Module):
    """(B, F, T) -> (B, T', H)."""

    def __init__(self, config: MuQConfig):
        super().__init__()
        first, second = config.time_strides
        channels = config.conv_channels
        self.conv = nn.Sequential(MuQConvolution(1, channels, first), MuQConvolution(channels, channels, second))
        self.linear = nn.Linear(channels * (config.num_mel_bins // 4), config.hidden_size)

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(spectrogram[:, None])
        return self.linear(hidden.permute(0, 3, 1, 2).flatten(2))


class MuQModel(Wav2Vec2ConformerPreTrainedModel):
    """Waveforms (B, S) at 24 kHz -> (B, T, H)."""

    config_class = MuQConfig
    config: MuQConfig
    base_model_prefix = "model"
    # What only its pretraining uses, and a convolution that transformers' conformer has and does not call.
    _keys_to_ignore_on_load_unexpected = [
        r"^(model\.)?(linear|recon_proj|rvq|quantizer_\w+)\.",
        r"^(model\.)?cls_token$",
        r"conformer\.pos_conv_embed\.",
    ]

    def __init__(self, config: MuQConfig):
        super().__init__(config)
        self.conv = MuQSubsampling(config)
        conformer_config = config.make_conformer_config()
        conformer_config._attn_implementation = config._attn_implementation
        self.conformer = Wav2Vec2ConformerEncoder(conformer_config)
        del self.conformer.pos_conv_embed
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # The parent asks the configuration for fields of the conformer.
        config, self.config = self.config, self.conformer.config
        super()._init_weights(module)
        self.config = config

    def compute_spectrogram(self, input_values: torch.Tensor) -> torch.Tensor:
        """Return normalised mel bands (B, F, T), one frame for each whole hop."""
        config = self.config
        settings = config.sample_rate, config.n_fft, config.hop_length, config.num_mel_bins
        with torch.no_grad(), torch.autocast(input_values.device.type, enabled=False):
            decibels = _make_spectrogram(*settings, input_values.device)(input_values.float())[..., :-1]
        return (decibels - config.mel_mean) / config.mel_std

    @capture_outputs
    def forward(self, input_values: torch.Tensor, **kwargs) -> BaseModelOutput:
        """Return the last hidden state (B, T, H), and with `output_hidden_states` those of all layers."""
        hidden = self.conv(self.compute_spectrogram(input_values).to(self.dtype))
        positions = self.conformer.embed_positions
        if hasattr(positions, "cached_sequence_length"):
            # Rotary ones that are kept from a forward pass in inference mode would stop the next backward pass.
            positions.cached_sequence_length = None
        return BaseModelOutput(last_hidden_state=self.conformer(hidden).last_hidden_state)
