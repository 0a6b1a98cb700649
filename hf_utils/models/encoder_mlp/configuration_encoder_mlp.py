"""Configuration of an audio encoder with a new head."""

from transformers import CONFIG_MAPPING, PretrainedConfig

from .configuration_muq import MuQConfig


class EncoderMLPConfig(PretrainedConfig):
    """An audio encoder and the head on top of it.

    Args:
        encoder_config: configuration of the encoder, or the dictionary that its `to_dict` gives.
        head: "linear" (one layer) or "mlp" (two layers).
        head_hidden_size: units between the two layers of "mlp".
        head_dropout: dropout before each layer of the head.
        head_pooling: "mean" over time, or "mean_max" (mean and maximum, one after the other); None for the encoder's
            own pooled output where it has one, else "mean".
        feature_layer: "all" for a learned weighted sum of all layers' outputs; otherwise the last layer is read, and
            a number says that the encoder has lost those above this one.
        standardize_features: whether the head subtracts the mean of its features and divides by their deviation.
    """

    model_type = "encoder_mlp"

    def __init__(
        self,
        encoder_config=None,
        head="mlp",
        head_hidden_size=512,
        head_dropout=0.1,
        head_pooling=None,
        feature_layer="last",
        standardize_features=False,
        initializer_range=0.02,
        **kwargs,
    ):
        if isinstance(encoder_config, dict):
            values = {key: value for key, value in encoder_config.items() if key != "model_type"}
            model_type = encoder_config["model_type"]
            config_class = MuQConfig if model_type == MuQConfig.model_type else CONFIG_MAPPING[model_type]
            encoder_config = config_class.from_dict(values)
        if head not in ("linear", "mlp"):
            raise ValueError(f"head is {head!r}, expected linear or mlp")
        if head_pooling not in (None, "mean", "mean_max"):
            raise ValueError(f"head_pooling is {head_pooling!r}, expected mean or mean_max")
        self.encoder_config = encoder_config
        self.head = head
        self.head_hidden_size = head_hidden_size
        self.head_dropout = head_dropout
        self.head_pooling = head_pooling
        self.feature_layer = feature_layer
        self.standardize_features = standardize_features
        self.initializer_range = initializer_range
        super().__init__(**kwargs)
