"""An audio encoder with a head of two layers. B batch, T time steps, H hidden size, K genres."""

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_encoder_mlp import EncoderMLPConfig


class EncoderMLPForAudioClassification(PreTrainedModel):
    """Any audio encoder that reads `input_values` (AST, HuBERT, wav2vec2, WavLM), pooled, and two linear layers."""

    config_class = EncoderMLPConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: EncoderMLPConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = AutoModel.from_config(config.encoder_config)
        self.classifier = nn.Sequential(
            nn.Dropout(config.head_dropout),
            nn.Linear(config.encoder_config.hidden_size, config.head_hidden_size),
            nn.ReLU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(config.head_hidden_size, config.num_labels),
        )
        self.post_init()

    def forward(
        self, input_values: torch.Tensor, labels: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> SequenceClassifierOutput:
        """Return logits (B, K), and the mean cross-entropy if `labels` (B,) are given.

        The head reads the encoder's own pooled output (AST), or else the mean of its output (B, T, H) over time.
        """
        outputs = self.encoder(input_values)
        pooled = getattr(outputs, "pooler_output", None)
        logits = self.classifier(outputs.last_hidden_state.mean(1) if pooled is None else pooled)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)
