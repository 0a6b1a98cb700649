"""The options of run_classification.py: the model, the data, and (in training_arguments.py) the training.

An option that is None by default leaves the choice to the model or the machine; its help says what that is.
"""

import dataclasses
from functools import partial
from typing import Literal

from hf_utils.arguments.options import option
from hf_utils.arguments.source import SourceArguments
from hf_utils.arguments.training import ClassificationTrainingArguments
from hf_utils.augmentation.corruptions import Corruption, read_corruptions
from hf_utils.augmentation.pipeline import Augmentation, read_augmentation
from hf_utils.errors import UserError

__all__ = ["ClassificationTrainingArguments", "DataArguments", "ModelArguments"]

_model = partial(option, group="model")
_spectrogram = partial(option, group="spectrogram of a CNN (image checkpoints only)")
_mix = partial(option, group="training mix and evaluation sets")
_windows = partial(option, group="windows and masks")


@dataclasses.dataclass
class ModelArguments:
    """What is trained: a checkpoint, its new head, and the layers that learn. Raises UserError on contradictions."""

    model_name_or_path: str = _model(
        dataclasses.MISSING,
        "Checkpoint of the Hub or a folder: an audio model (AST, HuBERT, wav2vec2, WavLM, Whisper ...) or an image "
        "model, which becomes a spectrogram CNN. A folder with only a config.json trains from random weights.",
        metavar="NAME_OR_FOLDER",
    )
    model_revision: str | None = _model(None, "Branch, tag or commit of the checkpoint. (default: its main branch)")
    cache_dir: str | None = _model(
        None, "Folder for downloaded checkpoints. (default: that of Hugging Face, set by HF_HOME)", metavar="FOLDER"
    )
    trust_remote_code: bool = _model(False, "Run the Python files that come with the checkpoint.")
    allow_pickle: bool = _model(False, "Load a checkpoint that has no safetensors from its .bin file, weights only.")
    freeze: Literal["none", "feature_encoder", "backbone", "all_but_last"] = _model(
        "none",
        "What does not learn: nothing, the convolutions below the transformer (HuBERT family), all but the head, or "
        "all but the head and the last layers (see --unfrozen_layers).",
    )
    unfrozen_layers: int = _model(
        1, "Last layers that learn under --freeze all_but_last.", metavar="LAYERS", at_least=1
    )
    head: Literal["linear", "mlp"] = _model("linear", "The new classifier: one linear layer, or two layers.")
    head_hidden_size: int = _model(512, "Width of --head mlp, in units.", metavar="UNITS", at_least=1)
    head_dropout: float = _model(0.1, "Dropout before the head's layers, a share.", at_least=0, below=1)
    feature_stats: Literal["auto", "checkpoint", "train"] = _model(
        "auto",
        "Mean and standard deviation that normalise features: the checkpoint's, or the training split's. "
        "(default: auto = train for a new spectrogram CNN, else checkpoint)",
    )
    spectrogram: Literal["mel", "stft", "multi_stft"] | None = _spectrogram(
        None,
        "Log-mel, log STFT (linear frequency), or three window lengths as three channels. (default: mel, or the "
        "checkpoint's own)",
    )
    sampling_rate: int | None = _spectrogram(
        None, "Sampling rate, in Hz. (default: 22050, or the checkpoint's own)", metavar="HZ", above=0
    )
    num_mel_bins: int | None = _spectrogram(
        None, "Number of mel bands. (default: 128, or the checkpoint's own)", metavar="BANDS", above=0
    )
    n_fft: int | None = _spectrogram(
        None, "Length of a frame, in samples. (default: 2048, or the checkpoint's own)", metavar="SAMPLES", above=0
    )
    hop_length: int | None = _spectrogram(
        None, "Step between frames, in samples. (default: 512, or the checkpoint's own)", metavar="SAMPLES", above=0
    )
    min_frequency_hz: float | None = _spectrogram(
        None, "Lowest frequency, in Hz. (default: 0, or the checkpoint's own)", metavar="HZ", at_least=0
    )
    max_frequency_hz: float | None = _spectrogram(
        None, "Highest frequency, in Hz. (default: half the rate, or the checkpoint's own)", metavar="HZ", above=0
    )

    def __post_init__(self):
        for name, unused, wanted in (
            ("unfrozen_layers", 1, ("freeze", "all_but_last")),
            ("head_hidden_size", 512, ("head", "mlp")),
        ):
            user, value = wanted
            if getattr(self, name) != unused and getattr(self, user) != value:
                raise UserError(
                    f"{name} is {getattr(self, name)}, but only {user}: {value} uses it, and {user} is "
                    f"{getattr(self, user)}"
                )
        low, high = self.min_frequency_hz or 0, self.max_frequency_hz
        if high is not None and low >= high:
            raise UserError(f"min_frequency_hz is {low}, expected less than max_frequency_hz, {high}")
        if high is not None and self.sampling_rate is not None and high > self.sampling_rate / 2:
            raise UserError(
                f"max_frequency_hz is {high}, expected at most half of sampling_rate, {self.sampling_rate}"
            )


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
