"""An image backbone that reads spectrograms. B batch, C channels, F frequency bins, T frames, K genres."""

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_spectrogram_cnn import SpectrogramCNNConfig


def pool_spectrograms(backbone: nn.Module, spectrograms: torch.Tensor) -> torch.Tensor:
    """Return the backbone's pooled output (B, H) for `spectrograms` (B, C, F, T).

    One channel serves for as many as the backbone reads. Raises ValueError for another number than it reads.
    """
    expected = next((m.in_channels for m in backbone.modules() if isinstance(m, nn.Conv2d)), None)
    channels = spectrograms.shape[1]
    if expected is None:
        raise ValueError("the backbone has no two-dimensional convolution, so it reads no spectrograms")
    if channels == 1:
        spectrograms = spectrograms.expand(-1, expected, -1, -1)
    elif channels != expected:
        raise ValueError(
            f"the spectrogram has {channels} channels, but the backbone reads {expected}: choose a spectrogram of one "
            "channel, or a backbone that reads as many"
        )
    if spectrograms.device.type == "cpu":
        # Channels last in memory, which convolutions hand on: EfficientNet-Lite0 then trains in half the time.
        spectrograms = spectrograms.movedim(1, 3).contiguous().movedim(3, 1)
    outputs = backbone(spectrograms)
    pooled = getattr(outputs, "pooler_output", None)
    if pooled is not None:
        return pooled.flatten(1)
    features = outputs.last_hidden_state
    # (B, H, F, T) of a convolutional net, or (B, N, H) of one that flattens its output into tokens.
    return features.mean((2, 3)) if features.ndim == 4 else features.mean(1)


class SpectrogramCNNForAudioClassification(PreTrainedModel):
    """Any convolutional image model of transformers or timm, with a classification head on its pooled output."""

    config_class = SpectrogramCNNConfig
    base_model_prefix = "backbone"
    main_input_name = "input_values"

    def __init__(self, config: SpectrogramCNNConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = AutoModel.from_config(config.backbone_config)
        width = config.hidden_size
        layers = [nn.Dropout(config.head_dropout)]
        if config.head == "mlp":
            width = config.head_hidden_size
            layers += [nn.Linear(config.hidden_size, width), nn.ReLU(), nn.Dropout(config.head_dropout)]
        self.classifier = nn.Sequential(*layers, nn.Linear(width, config.num_labels))
        self.post_init()

    def forward(
        self, input_values: torch.Tensor, labels: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> SequenceClassifierOutput:
        """Return logits (B, K) for `input_values` (B, C, F, T), and with `labels` (B,) the mean cross-entropy."""
        logits = self.classifier(pool_spectrograms(self.backbone, input_values))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)
