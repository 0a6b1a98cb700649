"""HuBERT, wav2vec2 and WavLM for short windows and several processes: layer drop, time masks, attention mask."""

from transformers import PreTrainedConfig, PreTrainedModel

from hf_utils.errors import UserError
from hf_utils.models.backbones import find_backbone

# Spans that every window gets at least, whatever its length, by default. With spans of a tenth of the window at most,
# two of them never hide more than a fifth of it; from 2 s on, this leaves the usual spans of ten frames (0.2 s) alone.
LONGEST_SPAN = 0.1


def disable_layer_drop(config: PreTrainedConfig) -> None:
    """Train all layers in every step.

    A dropped layer gets no gradient, which stops DistributedDataParallel ("unused parameters"), and every process
    drops others. What remains of the regularisation is dropout.
    """
    for name in ("layerdrop", "encoder_layerdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)


def fit_masks(model: PreTrainedModel, feature_extractor, window_samples: int) -> None:
    """Change the configuration of a waveform model so that it trains on windows of one length, under any launcher.

    The masks of its own SpecAugment stay on; they are off wherever the backbone is frozen (evaluation mode).

    Raises:
        UserError: the window is shorter than the model's first features.
    """
    backbone = find_backbone(model)
    config = backbone.config
    # Checkpoints with group norm were trained without mask, and windows of one length need none.
    if getattr(config, "feat_extract_norm", None) == "group" or model.config.model_type == "encoder_mlp":
        feature_extractor.return_attention_mask = False
    num_frames = int(backbone._get_feat_extract_output_lengths(window_samples))
    if num_frames < 1:
        raise UserError(
            f"a window of {window_samples} samples is too short for {config.model_type}: take a longer one"
        )
    # transformers raises for spans that are longer than the window.
    config.mask_time_length = max(1, min(config.mask_time_length, int(LONGEST_SPAN * num_frames)))
    config.mask_feature_length = min(config.mask_feature_length, config.hidden_size)
    if config.apply_spec_augment and config.mask_time_prob > 0:
        # One span at least, so that the embedding that stands for masked frames has a gradient in every step.
        config.mask_time_min_masks = max(1, config.mask_time_min_masks)
    elif hasattr(backbone, "masked_spec_embed"):
        backbone.masked_spec_embed.requires_grad_(False)
