"""Configuration of MusiCNN."""

from transformers import PretrainedConfig


class MusiCNNConfig(PretrainedConfig):
    """The sizes of the published net by default.

    Args:
        num_mel_bins: mel bands of the input.
        timbral_channels: of each of the two convolutions over frequency.
        temporal_channels: of each of the three convolutions over time.
        mid_channels: of each of the three convolutions above these.
        head: "norm_mlp", that of the published net (two layers, each after batch norm and dropout), or "linear" or
            "mlp", one or two layers after dropout.
        head_hidden_size: units between the two layers of the head.
        head_dropout: dropout before each layer of the head.
        head_pooling: what the head reads of the outputs over time: "mean_max" or "mean".
        standardize_features: whether the head subtracts the mean of its features and divides by their deviation.
        window_seconds: length of the windows that it was trained on: 187 frames.
    """

    model_type = "musicnn"

    def __init__(
        self,
        num_mel_bins=96,
        timbral_channels=204,
        temporal_channels=51,
        mid_channels=64,
        head="norm_mlp",
        head_hidden_size=200,
        head_dropout=0.5,
        head_pooling="mean_max",
        standardize_features=False,
        window_seconds=3.008,
        initializer_range=0.02,
        **kwargs,
    ):
        if head not in ("norm_mlp", "linear", "mlp"):
            raise ValueError(f"head is {head!r}, expected norm_mlp, linear or mlp")
        if head_pooling not in ("mean", "mean_max"):
            raise ValueError(f"head_pooling is {head_pooling!r}, expected mean or mean_max")
        self.num_mel_bins = num_mel_bins
        self.timbral_channels = timbral_channels
        self.temporal_channels = temporal_channels
        self.mid_channels = mid_channels
        self.head = head
        self.head_hidden_size = head_hidden_size
        self.head_dropout = head_dropout
        self.head_pooling = head_pooling
        self.standardize_features = standardize_features
        self.window_seconds = window_seconds
        self.initializer_range = initializer_range
        super().__init__(**kwargs)
