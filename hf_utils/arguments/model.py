"""The options of run_classification.py: the model, and (in data.py and training_options.py) the data and training.

An option that is None by default leaves the choice to the model or the machine; its help says what that is.
"""

import dataclasses
import re
from functools import partial
from typing import Any, Literal

from hf_utils.arguments.options import option
from hf_utils.errors import UserError

_model = partial(option, group="model")
_SPECTROGRAM = "spectrogram of a CNN (image checkpoints only)"
_spectrogram = partial(option, group=_SPECTROGRAM)


@dataclasses.dataclass
class ModelArguments:
    """What is trained: a checkpoint, its new head, and the layers that learn. Raises UserError on contradictions."""

    model_name_or_path: str = _model(
        dataclasses.MISSING,
        "Checkpoint of the Hub or a folder: an audio model (AST, HuBERT, WavLM, MERT, MuQ, CLAP ...) or an image "
        "model, which becomes a spectrogram CNN. A folder with only a config.json trains from random weights. "
        "--do_predict also takes an .onnx file of hf_utils.export.",
        metavar="NAME_OR_FOLDER",
    )
    ensemble_with: list[str] = _model(
        [],
        "More checkpoints of the same genres, of any kind: in --do_eval and --do_predict their probabilities and the "
        "model's are averaged.",
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
        trains=True,
    )
    unfrozen_layers: int = _model(
        1,
        "Last layers that learn under --freeze all_but_last.",
        metavar="LAYERS",
        at_least=1,
        trains=True,
    )
    head: Literal["linear", "mlp"] | None = _model(
        None, "The new classifier: one linear layer, or two layers. (default: linear, or the checkpoint's own)"
    )
    head_hidden_size: int | None = _model(
        None, "Width of --head mlp, in units. (default: 512, or the checkpoint's own)", metavar="UNITS", at_least=1
    )
    head_dropout: float | None = _model(
        None,
        "Dropout before the head's layers, a share. (default: 0.1, or the checkpoint's own)",
        at_least=0,
        below=1,
    )
    head_pooling: Literal["mean", "mean_max"] | None = _model(
        None,
        "What the head of an audio encoder reads of its output over time: the mean, or mean and maximum. (default: "
        "the model's own)",
    )
    feature_layer: str = _model(
        "last",
        "The layer of an audio encoder that the head reads: last, its number from 1 (those above it are cut off), or "
        "all for a learned weighted sum.",
        metavar="LAYER",
    )
    standardize_features: bool = _model(
        False,
        "Subtract from what the head of an audio encoder reads its mean over the training split, and divide it by its "
        "deviation.",
    )
    feature_stats: Literal["auto", "checkpoint", "train"] = _model(
        "auto",
        "Mean and standard deviation that normalise features: the checkpoint's, or the training split's. "
        "(default: auto = train for a new spectrogram CNN, else checkpoint)",
        trains=True,
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
    level_normalization: bool | None = _spectrogram(
        None,
        "Make all windows equally loud before their features are normalised, so that the volume of a recording does "
        "not matter. (default: true, or the checkpoint's own)",
    )

    def __post_init__(self):
        for name, unused, wanted in (
            ("unfrozen_layers", 1, ("freeze", "all_but_last")),
            ("head_hidden_size", None, ("head", "mlp")),
        ):
            user, value = wanted
            if getattr(self, name) != unused and getattr(self, user) != value:
                raise UserError(
                    f"{name} is {getattr(self, name)}, but only {user}: {value} uses it, and {user} is "
                    f"{getattr(self, user) or 'not given'}"
                )
        if self.feature_layer not in ("last", "all") and not re.fullmatch("[1-9][0-9]*", self.feature_layer):
            raise UserError(f"feature_layer is {self.feature_layer!r}, expected last, all or the number of a layer")
        low, high = self.min_frequency_hz or 0, self.max_frequency_hz
        if high is not None and low >= high:
            raise UserError(f"min_frequency_hz is {low}, expected less than max_frequency_hz, {high}")
        if high is not None and self.sampling_rate is not None and high > self.sampling_rate / 2:
            raise UserError(
                f"max_frequency_hz is {high}, expected at most half of sampling_rate, {self.sampling_rate}"
            )

    def spectrogram_settings(self) -> dict[str, Any]:
        """Return the settings of the spectrogram that were given, by their names in the CNN's feature extractor."""
        names = [field.name for field in dataclasses.fields(self) if field.metadata.get("group") == _SPECTROGRAM]
        return {name: value for name in names if (value := getattr(self, name)) is not None}
