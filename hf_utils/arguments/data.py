"""The options of run_classification.py that say what it trains and evaluates on, and through which windows."""

import dataclasses
from functools import partial
from typing import Literal

from hf_utils.arguments.options import option
from hf_utils.arguments.source import SourceArguments
from hf_utils.augmentation.corruptions import Corruption, read_corruptions
from hf_utils.augmentation.pipeline import Augmentation, read_augmentation
from hf_utils.errors import UserError

_mix = partial(option, group="training mix and evaluation sets")
_windows = partial(option, group="windows and masks")


@dataclasses.dataclass
class DataArguments(SourceArguments):
    """As `SourceArguments`, with the training mix, the evaluation sets and the windows."""

    train_datasets: list[str] = _mix(
        ["real"],
        "What to train on; real is the training split of --dataset_name. A:0.5 takes half of A, drawn per genre.",
        metavar="SOURCE[:FRACTION]",
    )
    train_filter: str | None = _mix(
        None,
        "Which clips of made datasets to train on, by their columns, such as 'clap_genre == label and "
        "classifier_score > 0.2'. Real clips are kept. (default: all)",
        metavar="EXPRESSION",
    )
    eval_datasets: list[str] | None = _mix(
        None, "Further sets to evaluate, beside validation and test, by name. (default: none)", metavar="NAME=SOURCE"
    )
    corruptions: str | None = _mix(
        None,
        "YAML file of corruptions, such as configs/corruptions.yaml: also evaluate the test tracks under each of "
        "them. (default: none)",
        metavar="FILE",
    )
    cache_corruptions: bool = _mix(
        True, "Keep the corrupted tracks beside the decoded audio, for further checkpoints, where the disk has room."
    )
    window_seconds: float | None = _windows(
        None, "What the model sees at once, in seconds. (default: 10; AST: 10.24)", metavar="SECONDS", above=0
    )
    eval_hop_seconds: float | None = _windows(
        None, "Step between evaluated windows, in seconds. (default: half a window)", metavar="SECONDS", above=0
    )
    augmentation: str | None = _windows(
        None,
        "YAML file of transforms, such as configs/augment/mild.yaml, drawn anew for every training window. "
        "(default: none)",
        metavar="FILE",
    )
    noise_folder: str | None = _windows(
        None, "Your own recordings, for transforms and corruptions that mix them in. (default: none)", metavar="FOLDER"
    )
    train_windows: Literal["random", "grid"] = _windows(
        "random",
        "What one training window per track and epoch is drawn from: every position, or the back-to-back windows that "
        "cover the track.",
    )
    cache_embeddings: Literal["auto", "always", "never"] = _windows(
        "auto",
        "Compute what the head reads once per window, keep it on disk, and train the head on it. (default: auto = "
        "with --freeze backbone, --train_windows grid and no augmentation, where the result is the same)",
    )
    spec_augment_time_seconds: float = _windows(
        0.0, "Longest time mask on training spectrograms, in seconds; 0 for none.", metavar="SECONDS", at_least=0
    )
    spec_augment_freq_bins: int = _windows(
        0, "Widest frequency mask on training spectrograms, in bins; 0 for none.", metavar="BINS", at_least=0
    )

    def __post_init__(self):
        super().__post_init__()
        window, hop = self.window_seconds, self.eval_hop_seconds
        if window is not None and hop is not None and hop > window:
            raise UserError(
                f"eval_hop_seconds is {hop}, longer than window_seconds, {window}: some audio is never heard"
            )
        if self.noise_folder is not None and self.augmentation is None and self.corruptions is None:
            raise UserError("noise_folder is given, but neither augmentation nor corruptions, which would use it")
        if not self.cache_corruptions and self.corruptions is None:
            raise UserError("cache_corruptions is false, but no corruptions are given, which it is about")

    def load_augmentation(self) -> Augmentation | None:
        """Return what training windows go through; None for nothing. Raises UserError for a mistake in its file."""
        return read_augmentation(self.augmentation, self.noise_folder) if self.augmentation else None

    def load_corruptions(self) -> list[Corruption]:
        """Return what the test tracks are evaluated under, in order. Raises UserError for a mistake in its file."""
        return read_corruptions(self.corruptions, self.noise_folder) if self.corruptions else []
