"""Mean and standard deviation of a training split's spectrograms, by which features are normalised."""

import math

import datasets
import torch
from tqdm.auto import tqdm

from hf_utils.data.windows import EvaluationWindows
from hf_utils.errors import UserError
from hf_utils.models.families import (
    expect_known_stats,
    has_feature_stats,
    needs_feature_stats,
    set_feature_stats,
    unnormalised,
)
from hf_utils.models.features import WindowCollator


def wants_training_stats(feature_extractor, feature_stats: str, *, do_train: bool) -> bool:
    """Return whether `--feature_stats` (auto, checkpoint or train) means those of the training split.

    Raises:
        UserError: the checkpoint has none to use, or the model has no use for any.
    """
    if feature_stats == "train" and not has_feature_stats(feature_extractor):
        raise UserError("--feature_stats train: this model does not normalise a spectrogram. Leave the option out.")
    if feature_stats == "checkpoint" or not do_train:
        expect_known_stats(feature_extractor)
    return do_train and (needs_feature_stats(feature_extractor) or feature_stats == "train")


def fit_feature_stats(
    feature_extractor, clips: datasets.Dataset, window_samples: int, *, num_workers: int = 0
) -> None:
    """Set the extractor's mean and standard deviation to those of the log spectrograms of `clips`.

    Call it only with the training split. Every sample of every clip is read once; sums are in float64.
    """
    windows = EvaluationWindows(clips, window_samples, window_samples)
    total, squares, count = 0.0, 0.0, 0
    with unnormalised(feature_extractor):
        loader = torch.utils.data.DataLoader(
            windows, batch_size=16, num_workers=num_workers, collate_fn=WindowCollator(feature_extractor)
        )
        for batch in tqdm(loader, desc="Feature statistics of the training split", leave=False, disable=None):
            features = batch[feature_extractor.model_input_names[0]].double()
            total += features.sum().item()
            squares += features.square().sum().item()
            count += features.numel()
    mean = total / count
    set_feature_stats(feature_extractor, mean, math.sqrt(max(squares / count - mean**2, 1e-12)))
