"""An audio encoder with a new head. B batch, T time steps, L layers, H hidden size, D features, K genres."""

import torch
from torch import nn
from transformers import AutoModel, ClapAudioModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_encoder_mlp import EncoderMLPConfig
from .modeling_muq import MuQModel

# What AutoModel does not know where these files are all there is.
_ENCODERS = {"clap_audio_model": ClapAudioModel, "muq": MuQModel}


class EncoderStandardization(nn.Module):
    """(B, ...) -> (B, ...): features less their mean, in parts of their deviation, over the training windows.

    `num_windows` tells how many these were; 0 before they are known.
    """

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("num_windows", torch.tensor(0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.mean) / self.std


class LayerSum(nn.Module):
    """(B, L, D) -> (B, D): the sum of all layers by learned weights that sum to 1 (Peters et al. 2018, 1802.05365)."""

    def __init__(self, num_layers: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_layers))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features * self.weights.softmax(0)[:, None]).sum(1)


class EncoderMLPForAudioClassification(PreTrainedModel):
    """An audio encoder (AST, HuBERT, wav2vec2, WavLM, MuQ, CLAP's audio tower), pooled, and one or two layers."""

    config_class = EncoderMLPConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: EncoderMLPConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        make_encoder = _ENCODERS.get(config.encoder_config.model_type, AutoModel.from_config)
        self.encoder = make_encoder(config.encoder_config)
        width = config.encoder_config.hidden_size * (2 if config.head_pooling == "mean_max" else 1)
        # Input of the first layer, then every layer's output.
        num_layers = config.encoder_config.num_hidden_layers + 1
        self.readout = nn.Sequential()
        if config.standardize_features:
            shape = (num_layers, width) if config.feature_layer == "all" else (width,)
            self.readout.append(EncoderStandardization(*shape))
        if config.feature_layer == "all":
            self.readout.append(LayerSum(num_layers))
        layers = [nn.Dropout(config.head_dropout)]
        if config.head == "mlp":
            layers += [nn.Linear(width, config.head_hidden_size), nn.ReLU(), nn.Dropout(config.head_dropout)]
            width = config.head_hidden_size
        self.classifier = nn.Sequential(*layers, nn.Linear(width, config.num_labels))
        self.post_init()

    def _pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, T, H) -> (B, D); (B, H, F, T) of CLAP as well."""
        if hidden.ndim == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        mean = hidden.mean(1)
        return torch.cat([mean, hidden.amax(1)], 1) if self.config.head_pooling == "mean_max" else mean

    def _read_encoder(self, input_values: torch.Tensor) -> torch.Tensor:
        """Return pooled features (B, D) of the last layer, or (B, L, D) of all."""
        if self.config.feature_layer == "all":
            outputs = self.encoder(input_values, output_hidden_states=True)
            # The last as it leaves the encoder: some have a normalisation after it.
            layers = [*outputs.hidden_states[:-1], outputs.last_hidden_state]
            return torch.stack([self._pool(hidden) for hidden in layers], 1)
        more = {}
        if self.config.encoder_config.model_type == "clap_audio_model":
            # Windows are never longer than what it reads, where it would fuse several views of them.
            more["is_longer"] = torch.zeros(len(input_values), 1, dtype=torch.bool, device=input_values.device)
        outputs = self.encoder(input_values, **more)
        pooled = getattr(outputs, "pooler_output", None)
        return pooled if pooled is not None and self.config.head_pooling is None else self._pool(outputs[0])

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        input_features: torch.Tensor | None = None,
        is_longer: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return logits (B, K), and the mean cross-entropy if `labels` (B,) are given.

        CLAP's extractor names its features `input_features`, and adds `is_longer`, by chance true for one window of a
        batch: it is not used.
        """
        inputs = input_values if input_features is None else input_features
        logits = self.classifier(self.readout(self._read_encoder(inputs)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)
