"""Configuration of the sample-level CNN."""

from transformers import PretrainedConfig


class SampleCNNConfig(PretrainedConfig):
    """Blocks of a convolution over three steps and a pooling of three, so n blocks see windows of 3^(n+1) samples.

    Args:
        hidden_sizes: channels of each block. Half of the published ones by default: there are hundreds of tracks here,
            and were tens of thousands there.
        head_dropout: dropout before the output layer.
    """

    model_type = "sample_cnn"

    def __init__(
        self,
        hidden_sizes=(64, 64, 64, 128, 128, 128, 128, 128, 256),
        head_dropout=0.5,
        initializer_range=0.02,
        **kwargs,
    ):
        self.hidden_sizes = list(hidden_sizes)
        self.head_dropout = head_dropout
        self.initializer_range = initializer_range
        super().__init__(**kwargs)
