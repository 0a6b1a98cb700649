"""Configuration of MuQ."""

from transformers import PretrainedConfig, Wav2Vec2ConformerConfig


class MuQConfig(PretrainedConfig):
    """The sizes of MuQ-large by default.

    Args:
        hidden_size: of the conformer.
        num_hidden_layers: of the conformer.
        conv_channels: of the convolutions below it.
        time_strides: of the two convolutions, in frames; 2 and 2 for 25 steps per second, 2 and 1 for 50.
        sample_rate: of the waveforms, in Hz.
        n_fft: length of a frame, in samples.
        hop_length: samples between frames.
        num_mel_bins: mel bands, on the HTK scale, from 0 Hz to half the sample rate.
        mel_mean, mel_std: of the bands, in dB, over the music that it learned from.
        conformer_config: further fields of `Wav2Vec2ConformerConfig`.
    """

    model_type = "muq"

    def __init__(
        self,
        hidden_size=1024,
        num_hidden_layers=12,
        conv_channels=512,
        time_strides=(2, 2),
        sample_rate=24000,
        n_fft=2048,
        hop_length=240,
        num_mel_bins=128,
        mel_mean=0.0,
        mel_std=1.0,
        conformer_config=None,
        initializer_range=0.02,
        **kwargs,
    ):
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.conv_channels = conv_channels
        self.time_strides = list(time_strides)
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.num_mel_bins = num_mel_bins
        self.mel_mean = mel_mean
        self.mel_std = mel_std
        self.conformer_config = dict(conformer_config or {})
        self.initializer_range = initializer_range
        super().__init__(**kwargs)

    def make_conformer_config(self) -> Wav2Vec2ConformerConfig:
        """Return the configuration of the conformer."""
        sizes = {"hidden_size": self.hidden_size, "num_hidden_layers": self.num_hidden_layers}
        return Wav2Vec2ConformerConfig(**self.conformer_config | sizes)
