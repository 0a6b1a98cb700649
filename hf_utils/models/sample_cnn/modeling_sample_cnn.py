"""The sample-level CNN of Lee et al. 2017 (arXiv 1703.01789). B batch, T samples, H channels, K genres.

Filters of three samples take the place of a spectrogram: what a frequency is, the net learns from the waveform.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_sample_cnn import SampleCNNConfig


class SampleBlock(nn.Sequential):
    """(B, H, T) -> (B, H', T / 3). The last pooling may be partial, so that no window is too short."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(
            nn.Conv1d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm1d(out_channels),
            nn.ReLU(),
            nn.MaxPool1d(3, ceil_mode=True),
        )


class SampleCNNBackbone(nn.Module):
    """(B, T) -> (B, H): a convolution of stride three, the blocks, and the mean over the time that is left."""

    def __init__(self, config: SampleCNNConfig):
        super().__init__()
        widths = [config.hidden_sizes[0], *config.hidden_sizes]
        self.front_end = nn.Sequential(
            nn.Conv1d(1, widths[0], kernel_size=3, stride=3, bias=False), nn.BatchNorm1d(widths[0]), nn.ReLU()
        )
        self.blocks = nn.ModuleList(map(SampleBlock, widths[:-1], widths[1:]))

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        hidden = self.front_end(input_values[:, None])
        for block in self.blocks:
            hidden = block(hidden)
        return hidden.mean(2)


class SampleCNNForAudioClassification(PreTrainedModel):
    """The sample-level CNN with dropout and one linear layer on top."""

    config_class = SampleCNNConfig
    base_model_prefix = "backbone"
    main_input_name = "input_values"

    def __init__(self, config: SampleCNNConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = SampleCNNBackbone(config)
        self.classifier = nn.Sequential(
            nn.Dropout(config.head_dropout), nn.Linear(config.hidden_sizes[-1], config.num_labels)
        )
        self.post_init()

    def forward(
        self, input_values: torch.Tensor, labels: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> SequenceClassifierOutput:
        """Return logits (B, K) for `input_values` (B, T), and with `labels` (B,) the mean cross-entropy."""
        logits = self.classifier(self.backbone(input_values))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)
