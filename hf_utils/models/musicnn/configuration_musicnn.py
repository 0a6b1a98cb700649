"""Configuration of MusiCNN."""

from transformers import PretrainedConfig


class MusiCNNConfig(PretrainedConfig):
    """The sizes of the published net by default.

    Args:
        num_mel_bins: mel bands of the input.
        timbral_channels: of each of the two convolutions over frequency.
        temporal_channels: of each of the three convolutions over time.
        mid_channels: of each of the three convolutions above these.
        head_hidden_size: units between the two layers of the head.
        head_dropout: dropout before each layer of the head.
        window_seconds: length of the windows that it was trained on: 187 frames.
    """

    model_type = "musicnn"

    def __init__(
        self,
        num_mel_bins=96,
        timbral_channels=204,
        temporal_channels=51,
        mid_channels=64,
        head_hidden_size=200,
        head_dropout=0.5,
        window_seconds=3.008,
        initializer_range=0.02,
        **kwargs,
    ):
        self.num_mel_bins = num_mel_bins
        self.timbral_channels = timbral_channels
        self.temporal_channels = temporal_channels
        self.mid_channels = mid_channels
        self.head_hidden_size = head_hidden_size
        self.head_dropout = head_dropout
        self.window_seconds = window_seconds
        self.initializer_range = initializer_range
        super().__init__(**kwargs)
