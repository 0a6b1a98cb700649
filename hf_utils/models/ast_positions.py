"""Audio spectrogram transformers for other window lengths. F patches per column, T patches per row, H hidden size."""

import torch
from torch import nn

from hf_utils.errors import UserError
from hf_utils.models.families import AST_SHIFT_SECONDS

# Classification and distillation token: they come first, and have no place in the spectrogram.
NUM_TOKENS = 2


def interpolate_positions(positions: torch.Tensor, num_rows: int, num_columns: int) -> torch.Tensor:
    """Return position embeddings (1, 2 + F * T', H), T' = `num_columns`, made from (1, 2 + F * T, H), F = `num_rows`.

    The patches are laid out as their grid of frequency by time and interpolated bilinearly, as by Gong et al. 2021
    (arXiv 2104.01778, section 2.2); the two tokens stay.
    """
    tokens, patches = positions[:, :NUM_TOKENS], positions[:, NUM_TOKENS:]
    hidden_size = positions.shape[-1]
    grid = patches.reshape(1, num_rows, -1, hidden_size).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(num_rows, num_columns), mode="bilinear", align_corners=False)
    return torch.cat([tokens, grid.permute(0, 2, 3, 1).reshape(1, -1, hidden_size)], dim=1)


def fit_ast_window(backbone: nn.Module, feature_extractor, window_seconds: float | None) -> None:
    """Make an `ASTModel`, its configuration and its extractor take windows of one length; None keeps the model's own.

    Raises:
        UserError: a window shorter than a patch, or an extractor of another number of mel bands.
    """
    config = backbone.config
    if feature_extractor.num_mel_bins != config.num_mel_bins:
        raise UserError(
            f"the feature extractor makes {feature_extractor.num_mel_bins} mel bands, but the model reads "
            f"{config.num_mel_bins}: preprocessor_config.json and config.json do not belong together"
        )
    if window_seconds is not None:
        num_frames = round(window_seconds / AST_SHIFT_SECONDS)
        if num_frames < config.patch_size:
            raise UserError(
                f"window_seconds is {window_seconds}, expected at least {config.patch_size * AST_SHIFT_SECONDS:.2f}: "
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
    positions = interpolate_positions(embeddings.position_embeddings, num_rows, num_columns)
    embeddings.position_embeddings = nn.Parameter(positions)
