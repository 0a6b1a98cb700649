"""Configuration of an audio encoder with a head of two layers."""

from transformers import CONFIG_MAPPING, PretrainedConfig


class EncoderMLPConfig(PretrainedConfig):
    """An audio encoder and the head on top of it.

    Args:
        encoder_config: configuration of the encoder, or the dictionary that its `to_dict` gives.
        head_hidden_size: units between the two layers of the head.
        head_dropout: dropout before each layer of the head.
    """

    model_type = "encoder_mlp"

    def __init__(self, encoder_config=None, head_hidden_size=512, head_dropout=0.1, initializer_range=0.02, **kwargs):
        if isinstance(encoder_config, dict):
            values = {key: value for key, value in encoder_config.items() if key != "model_type"}
            encoder_config = CONFIG_MAPPING[encoder_config["model_type"]].from_dict(values)
        self.encoder_config = encoder_config
        self.head_hidden_size = head_hidden_size
        self.head_dropout = head_dropout
        self.initializer_range = initializer_range
        super().__init__(**kwargs)
