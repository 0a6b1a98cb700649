"""MusiCNN (Pons and Serra 2019, arXiv 1909.06654). B batch, T frames, F mel bands, H channels, K labels.

The front end looks for timbres (filters that are tall in frequency) and for rhythms (filters that are long in time);
three convolutions over time relate what it finds. Nothing in it depends on the length of the window.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_musicnn import MusiCNNConfig

# Of the original, in TensorFlow; its momentum of 0.99 is what PyTorch calls 0.01.
_NORM = {"eps": 1e-3, "momentum": 0.01}

# Filters of the front end: those for timbres as tall as a share of the mel bands, those for rhythms as long as this.
_TIMBRAL_SHARES = (0.4, 0.7)
_TEMPORAL_FRAMES = (128, 64, 32)
# Length of all other filters.
_FRAMES = 7


class FrontEndFilter(nn.Module):
    """(B, 1, T, F) -> (B, H, T): a convolution, and its maximum over frequency."""

    def __init__(self, channels: int, frames: int, bands: int):
        super().__init__()
        # As many frames come out as go in; an even filter has one more frame ahead of it than behind.
        self.pad = nn.ZeroPad2d((0, 0, (frames - 1) // 2, frames // 2))
        self.conv = nn.Conv2d(1, channels, (frames, bands))
        self.norm = nn.BatchNorm2d(channels, **_NORM)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(self.pad(hidden))
        if self.norm.training:
            return self.norm(hidden.relu()).amax(3)
        # With fixed statistics the norm is a line for each channel: it is largest where the channel is, or, falling,
        # where that is smallest. Taken first, these leave the norm a fraction of the work.
        ends = torch.where(self.norm.weight[:, None] < 0, hidden.amin(3), hidden.amax(3))
        return self.norm(ends.relu()[..., None]).squeeze(3)


class FrontEnd(nn.Module):
    """(B, T, F) -> (B, H, T): what all filters find in the normalised spectrogram."""

    def __init__(self, config: MusiCNNConfig):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, **_NORM)
        filters = {}
        for share in _TIMBRAL_SHARES:
            bands = int(share * config.num_mel_bins)
            filters[f"timbral_{bands}"] = FrontEndFilter(config.timbral_channels, _FRAMES, bands)
        for frames in _TEMPORAL_FRAMES:
            filters[f"temporal_{frames}"] = FrontEndFilter(config.temporal_channels, frames, 1)
        self.filters = nn.ModuleDict(filters)
        self.out_channels = sum(filter.conv.out_channels for filter in filters.values())

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        normalised = self.norm(input_values[:, None])
        return torch.cat([filter(normalised) for filter in self.filters.values()], dim=1)


class MidLayer(nn.Module):
    """(B, H, T) -> (B, H', T): a convolution over time."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(in_channels, channels, _FRAMES, padding=_FRAMES // 2)
        self.norm = nn.BatchNorm1d(channels, **_NORM)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(hidden).relu())


class VectorNorm(nn.BatchNorm1d):
    """Batch norm of vectors (B, H). A batch of one in training has no deviation: it takes the running statistics."""

    def __init__(self, size: int):
        super().__init__(size, **_NORM)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.training and len(hidden) == 1:
            return nn.functional.batch_norm(
                hidden, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(hidden)


class MusiCNNStandardization(nn.Module):
    """(B, H) -> (B, H): features less their mean, in parts of their deviation, over the training windows.

    `num_windows` tells how many these were; 0 before they are known.
    """

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.register_buffer("num_windows", torch.tensor(0))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return (hidden - self.mean) / self.std


class MusiCNNBackbone(nn.Module):
    """(B, T, F) -> (B, 2 H): maximum and mean over time, channel by channel, of what all layers put out.

    (B, H) if the configuration wants the mean alone.
    """

    def __init__(self, config: MusiCNNConfig):
        super().__init__()
        self.front_end = FrontEnd(config)
        width, mid = self.front_end.out_channels, config.mid_channels
        self.mid_layers = nn.ModuleList([MidLayer(width, mid), MidLayer(mid, mid), MidLayer(mid, mid)])
        self.pooling = config.head_pooling
        self.output_size = (2 if self.pooling == "mean_max" else 1) * (width + len(self.mid_layers) * mid)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        outputs = [self.front_end(input_values)]
        for layer in self.mid_layers:
            hidden = layer(outputs[-1])
            # Residual connections from the second on; the first changes the number of channels.
            outputs.append(hidden if len(outputs) == 1 else hidden + outputs[-1])
        features = torch.cat(outputs, dim=1)
        mean = features.mean(2)
        return torch.stack([features.amax(2), mean], dim=2).flatten(1) if self.pooling == "mean_max" else mean


class MusiCNNForAudioClassification(PreTrainedModel):
    """MusiCNN with its own head of two layers, each after batch norm and dropout, or with a plain one."""

    config_class = MusiCNNConfig
    base_model_prefix = "backbone"
    main_input_name = "input_values"

    def __init__(self, config: MusiCNNConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = MusiCNNBackbone(config)
        width, norm = self.backbone.output_size, config.head == "norm_mlp"
        self.readout = nn.Sequential(*([MusiCNNStandardization(width)] if config.standardize_features else []))
        layers = [VectorNorm(width)] if norm else []
        layers.append(nn.Dropout(config.head_dropout))
        if config.head != "linear":
            layers += [nn.Linear(width, config.head_hidden_size), nn.ReLU()]
            width = config.head_hidden_size
            layers += [VectorNorm(width)] if norm else []
            layers.append(nn.Dropout(config.head_dropout))
        self.classifier = nn.Sequential(*layers, nn.Linear(width, config.num_labels))
        self.post_init()

    def forward(
        self, input_values: torch.Tensor, labels: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> SequenceClassifierOutput:
        """Return logits (B, K) for `input_values` (B, T, F), and with `labels` (B,) the mean cross-entropy.

        A tagger (`problem_type` is multi_label_classification) takes `labels` (B, K) of 0 and 1, each an output's.
        """
        logits = self.classifier(self.readout(self.backbone(input_values)))
        loss = None
        if labels is not None:
            is_tagger = self.config.problem_type == "multi_label_classification"
            compute = nn.functional.binary_cross_entropy_with_logits if is_tagger else nn.functional.cross_entropy
            loss = compute(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)
