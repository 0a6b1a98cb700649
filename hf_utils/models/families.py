"""What differs between kinds of models: their input, the windows they take, and how their features are normalised."""

import contextlib
import math
from collections.abc import Iterator

from transformers import PreTrainedConfig

from hf_utils.errors import UserError

DEFAULT_WINDOW_SECONDS = 10.0
# Frames of the AST extractor (Kaldi's defaults): only whole ones count, so the last needs its full length.
AST_FRAME_SECONDS = 0.025
AST_SHIFT_SECONDS = 0.010


def family_of(config: PreTrainedConfig) -> str:
    """Return "spectrogram_cnn", "spectrogram_transformer" (AST), "waveform" (HuBERT, wav2vec2 ...) or "other"."""
    if config.model_type == "encoder_mlp":
        return family_of(config.encoder_config)
    if config.model_type == "spectrogram_cnn":
        return "spectrogram_cnn"
    if config.model_type == "audio-spectrogram-transformer":
        return "spectrogram_transformer"
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
        frame, shift = int(AST_FRAME_SECONDS * sample_rate), int(AST_SHIFT_SECONDS * sample_rate)
        return frame + shift * (feature_extractor.max_length - 1)
    fixed_samples = getattr(feature_extractor, "n_samples", None)
    if fixed_samples is not None:
        # Whisper pads everything to 30 s, and its positions are for that.
        if window_seconds is not None and round(window_seconds * sample_rate) != fixed_samples:
            raise UserError(
                f"window_seconds is {window_seconds}, but {config.model_type} takes windows of "
                f"{fixed_samples / sample_rate:g} s alone: leave it out"
            )
        return fixed_samples
    if window_seconds is None:
        window_seconds = getattr(config, "window_seconds", None) or DEFAULT_WINDOW_SECONDS
    return round(window_seconds * sample_rate)


def has_feature_stats(feature_extractor) -> bool:
    """Whether the extractor normalises by one mean and one standard deviation of all its training data."""
    return hasattr(feature_extractor, "mean") and hasattr(feature_extractor, "std")


def needs_feature_stats(feature_extractor) -> bool:
    """Whether mean and standard deviation are still to be computed: for a new CNN, or a new spectrogram."""
    return has_feature_stats(feature_extractor) and (feature_extractor.mean is None or feature_extractor.std is None)


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
