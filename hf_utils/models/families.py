"""What differs between kinds of models: windows, how features are normalised, and how outputs are read.

AST reads spectrograms (F patches per column, T patches per row, H hidden size), HuBERT, wav2vec2 and WavLM waveforms.
"""

import contextlib
import copy
import math
from collections.abc import Iterator

import numpy as np
import scipy.special
import torch
from torch import nn
from transformers import ASTFeatureExtractor, PreTrainedConfig, PreTrainedModel

from hf_utils.errors import UserError
from hf_utils.models.freezing import find_backbone
from hf_utils.models.music_encoders import CLAP_TYPES
from hf_utils.models.temperature import read_temperature

DEFAULT_WINDOW_SECONDS = 10.0

# Frames of the AST extractor (Kaldi's defaults): only whole ones count, so the last needs its full length.
AST_FRAME_SECONDS = 0.025
AST_SHIFT_SECONDS = 0.010

# Classification and distillation token: they come first, and have no place in the spectrogram.
NUM_TOKENS = 2

# Spans that every window gets at least, whatever its length, by default. With spans of a tenth of the window at most,
# two of them never hide more than a fifth of it; from 2 s on, this leaves the usual spans of ten frames (0.2 s) alone.
LONGEST_SPAN = 0.1

_MULTI_LABEL = "multi_label_classification"
# Number and place of two of its labels: AST and others are published with these outputs, but without problem_type.
_AUDIOSET_LABELS, _AUDIOSET_EXAMPLES = 527, {0: "Speech", 137: "Music"}
# In every label of MAEST, a style of Discogs, such as "Rock---Punk".
_DISCOGS_MARK = "---"

# More frames than fill a window, to see how many are real.
_SPARE_FRAMES = 8


def family_of(config: PreTrainedConfig) -> str:
    """Return the family of a model.

    "spectrogram_cnn", "musicnn", "spectrogram_transformer" (AST, MAEST), "clap", "muq", "waveform" (HuBERT, MERT ...)
    or "other".
    """
    if config.model_type == "encoder_mlp":
        return family_of(config.encoder_config)
    if config.model_type in ("spectrogram_cnn", "musicnn"):
        return config.model_type
    if config.model_type == "audio-spectrogram-transformer":
        return "spectrogram_transformer"
    if config.model_type in CLAP_TYPES:
        return "clap"
    if config.model_type == "muq":
        return "muq"
    # All that read waveforms have convolutions for it, and their sizes in the configuration.
    return "waveform" if hasattr(config, "conv_dim") else "other"


def window_samples_for(config: PreTrainedConfig, feature_extractor, window_seconds: float | None) -> int:
    """Return the length of a window in samples at the extractor's rate, such that the extractor never pads or cuts.

    Args:
        config: of a model of `load_classifier`.
        feature_extractor: the one that came with it.
        window_seconds: as passed to `load_classifier`; None for the model's own window.

    Raises:
        UserError: the model takes no other window than its own.
    """
    sample_rate = feature_extractor.sampling_rate
    if family_of(config) == "spectrogram_transformer":
        first, shift = _frame_samples(feature_extractor)
        return first + shift * (feature_extractor.max_length - 1)
    # Whisper pads everything to 30 s, and its positions are for that. CLAP's extractor repeats what is shorter than
    # its 10 s, and takes a random part of what is longer.
    fixed_samples = getattr(feature_extractor, "nb_max_samples" if family_of(config) == "clap" else "n_samples", None)
    if fixed_samples is not None:
        if window_seconds is not None and round(window_seconds * sample_rate) != fixed_samples:
            model_type = getattr(config, "encoder_config", config).model_type
            raise UserError(
                f"window_seconds is {window_seconds}, but {model_type} takes windows of "
                f"{fixed_samples / sample_rate:g} s: leave it out"
            )
        return fixed_samples
    if window_seconds is None:
        window_seconds = getattr(config, "window_seconds", None) or DEFAULT_WINDOW_SECONDS
    return round(window_seconds * sample_rate)


def _frame_samples(feature_extractor) -> tuple[int, int]:
    """Return the samples that an extractor for AST needs for one frame, and for each further one."""
    if type(feature_extractor) is ASTFeatureExtractor:
        rate = feature_extractor.sampling_rate
        return int(AST_FRAME_SECONDS * rate), int(AST_SHIFT_SECONDS * rate)
    # Frames that are centred, so that there is one from the first sample on; `_expect_centred_frames` looks.
    return 0, feature_extractor.hop_length


def _expect_centred_frames(feature_extractor) -> None:
    """Raise UserError unless another extractor than AST's, such as MAEST's, makes the frames that are expected of it.

    What it does is seen on noise: a window must give as many frames as the model reads, and not one of padding.
    """
    name, wanted = type(feature_extractor).__name__, ("hop_length", "max_length", "num_mel_bins")
    if missing := [
        attribute for attribute in wanted if not isinstance(getattr(feature_extractor, attribute, None), int)
    ]:
        raise UserError(
            f"the feature extractor is {name}, which names no {', no '.join(missing)}, expected ASTFeatureExtractor, "
            "or one like MAEST's: how much audio fills a window of another is not known"
        )
    extractor, frames = copy.copy(feature_extractor), feature_extractor.max_length
    extractor.max_length = frames + _SPARE_FRAMES
    noise = np.random.default_rng(0).normal(0, 0.1, extractor.hop_length * (frames - 1)).astype(np.float32)
    batch = extractor([noise], sampling_rate=extractor.sampling_rate, return_tensors="np")
    features = np.asarray(batch[extractor.model_input_names[0]])[0]
    shape = frames + _SPARE_FRAMES, extractor.num_mel_bins
    real = int((np.ptp(features, axis=1) > 0).sum()) if features.shape == shape else None
    if real != frames:
        found = f"{real} frames" if features.shape == shape else f"features of shape {features.shape}, not {shape}"
        raise UserError(
            f"the feature extractor {name} makes {found} of {noise.size} samples, expected {frames} frames with a hop "
            f"of {extractor.hop_length}: how much audio fills a window is not known"
        )


def fit_ast_window(backbone: nn.Module, feature_extractor, window_seconds: float | None) -> None:
    """Make an `ASTModel`, its configuration and its extractor take windows of one length; None keeps the model's own.

    Raises:
        UserError: a window shorter than a patch, or an extractor of other frames or another number of mel bands.
    """
    config = backbone.config
    is_centred = type(feature_extractor) is not ASTFeatureExtractor
    if is_centred:
        # MAEST's have a hop of 16 ms: windows of 626 frames are 10 s, not 6.3 s as those of AST.
        _expect_centred_frames(feature_extractor)
    if feature_extractor.num_mel_bins != config.num_mel_bins:
        raise UserError(
            f"the feature extractor makes {feature_extractor.num_mel_bins} mel bands, but the model reads "
            f"{config.num_mel_bins}: preprocessor_config.json and config.json do not belong together"
        )
    if window_seconds is not None:
        shift_seconds = _frame_samples(feature_extractor)[1] / feature_extractor.sampling_rate
        num_frames = round(window_seconds / shift_seconds) + is_centred
        if num_frames < config.patch_size:
            raise UserError(
                f"window_seconds is {window_seconds}, expected at least {config.patch_size * shift_seconds:.2f}: "
                "one patch of the spectrogram"
            )
        _resize(backbone, num_frames)
    feature_extractor.max_length = config.max_length


@torch.no_grad()
def _resize(backbone: nn.Module, num_frames: int) -> None:
    config, embeddings = backbone.config, backbone.embeddings
    if num_frames == config.max_length:
        return
    config.max_length = num_frames
    num_rows, num_columns = embeddings.get_shape(config)
    positions = fit_positions(embeddings.position_embeddings, num_rows, num_columns)
    embeddings.position_embeddings = nn.Parameter(positions)


def fit_positions(positions: torch.Tensor, num_rows: int, num_columns: int) -> torch.Tensor:
    """Return position embeddings (1, 2 + F * T', H), T' = `num_columns`, made from (1, 2 + F * T, H), F = `num_rows`.

    The patches are laid out as their grid of frequency by time. Fewer columns are cut from its middle, more are
    interpolated bilinearly, as by Gong et al. 2021 (arXiv 2104.01778, section 2.2, and github.com/YuanGongND/ast,
    ast_models.py); the two tokens stay.
    """
    tokens, patches = positions[:, :NUM_TOKENS], positions[:, NUM_TOKENS:]
    hidden_size = positions.shape[-1]
    grid = patches.reshape(1, num_rows, -1, hidden_size)
    before = grid.shape[2]
    if num_columns < before:
        start = before // 2 - num_columns // 2
        grid = grid[:, :, start : start + num_columns]
    else:
        grid = grid.permute(0, 3, 1, 2)
        grid = nn.functional.interpolate(grid, size=(num_rows, num_columns), mode="bilinear", align_corners=False)
        grid = grid.permute(0, 2, 3, 1)
    return torch.cat([tokens, grid.reshape(1, -1, hidden_size)], dim=1)


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
        # One span at least, so that the embedding of masked frames has a gradient in every step.
        config.mask_time_min_masks = max(1, config.mask_time_min_masks)
    elif hasattr(backbone, "masked_spec_embed"):
        backbone.masked_spec_embed.requires_grad_(False)


def is_multi_label(config: PreTrainedConfig) -> bool:
    """Whether each output is a label by itself (a tagger), not one genre of several that exclude each other.

    As transformers decides, by `problem_type`; of AudioSet's labels and of MAEST's it is known without.
    """
    if config.problem_type is not None:
        return config.problem_type == _MULTI_LABEL
    if all(_DISCOGS_MARK in label for label in config.id2label.values()):
        return True
    is_audioset = config.num_labels == _AUDIOSET_LABELS
    return is_audioset and all(config.id2label[index] == label for index, label in _AUDIOSET_EXAMPLES.items())


def probabilities_of(config: PreTrainedConfig, logits: np.ndarray) -> np.ndarray:
    """Return float64 probabilities (W, K) of logits (W, K): sigmoids of a tagger, else their softmax.

    Logits of a checkpoint with a temperature are divided by it; a tagger has none.
    """
    logits = np.asarray(logits, np.float64)
    if is_multi_label(config):
        return scipy.special.expit(logits)
    return scipy.special.softmax(logits / (read_temperature(config) or 1.0), axis=1)


def normalize_waveforms(samples: torch.Tensor) -> torch.Tensor:
    """Return samples (B, T) of mean 0 and variance 1, as `Wav2Vec2FeatureExtractor` makes them."""
    variance, mean = torch.var_mean(samples, dim=1, correction=0, keepdim=True)
    return (samples - mean) / torch.sqrt(variance + 1e-7)


def has_feature_stats(feature_extractor) -> bool:
    """Whether the extractor normalises by one mean and one standard deviation of all its training data."""
    return hasattr(feature_extractor, "mean") and hasattr(feature_extractor, "std")


def needs_feature_stats(feature_extractor) -> bool:
    """Whether mean and standard deviation are still to be computed: for a new CNN, or a new spectrogram."""
    return has_feature_stats(feature_extractor) and (feature_extractor.mean is None or feature_extractor.std is None)


def expect_known_stats(feature_extractor) -> None:
    """Raise UserError if mean and standard deviation are still to be computed."""
    if needs_feature_stats(feature_extractor):
        raise UserError(
            "The checkpoint has no mean and deviation of spectrograms like these: it was never trained on any, or an "
            "option changes its spectrogram. Leave such options out, or train it with --feature_stats train."
        )


def set_feature_stats(feature_extractor, mean: float, std: float) -> None:
    """Normalise by `mean` and `std` of the log spectrogram; AST extractors further halve the result, as always.

    Raises:
        UserError: the extractor has no such statistics, or they are not usable.
    """
    _expect_feature_stats(feature_extractor)
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise UserError(
            f"the features have mean {mean} and standard deviation {std}, expected finite and above 0: is all of the "
            "training audio silent?"
        )
    feature_extractor.mean = float(mean)
    feature_extractor.std = float(std)


@contextlib.contextmanager
def unnormalised(feature_extractor) -> Iterator[None]:
    """Within the block the extractor gives plain log spectrograms. Raises UserError if it makes none."""
    _expect_feature_stats(feature_extractor)
    before = feature_extractor.do_normalize
    feature_extractor.do_normalize = False
    try:
        yield
    finally:
        feature_extractor.do_normalize = before


def _expect_feature_stats(feature_extractor) -> None:
    if not has_feature_stats(feature_extractor):
        raise UserError(
            f"{type(feature_extractor).__name__} has no mean and standard deviation to compute, since the model reads "
            "no normalised spectrogram: leave out --feature_stats train"
        )
