"""Configuration of the spectrogram CNN."""

from transformers import CONFIG_MAPPING, PretrainedConfig


class SpectrogramCNNConfig(PretrainedConfig):
    """An image backbone and the head on top of it.

    Args:
        backbone_config: configuration of the image model, or the dictionary that its `to_dict` gives.
        hidden_size: length of the backbone's pooled output.
        head: "linear" (one layer) or "mlp" (two layers).
        head_hidden_size: units between the two layers of "mlp".
        head_dropout: dropout before each layer of the head.
    """

    model_type = "spectrogram_cnn"

    def __init__(
        self,
        backbone_config=None,
        hidden_size=768,
        head="linear",
        head_hidden_size=512,
        head_dropout=0.1,
        initializer_range=0.02,
        **kwargs,
    ):
        if isinstance(backbone_config, dict):
            values = {key: value for key, value in backbone_config.items() if key != "model_type"}
            backbone_config = CONFIG_MAPPING[backbone_config["model_type"]].from_dict(values)
        if head not in ("linear", "mlp"):
            raise ValueError(f"head is {head!r}, expected linear or mlp")
        self.backbone_config = backbone_config
        self.hidden_size = hidden_size
        self.head = head
        self.head_hidden_size = head_hidden_size
        self.head_dropout = head_dropout
        self.initializer_range = initializer_range
        super().__init__(**kwargs)
