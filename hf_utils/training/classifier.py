"""The classifier of a run, whether it is trained, evaluated or tags files: the model, its features and its windows."""

import dataclasses
from typing import Any

import torch

from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.data.window_lengths import WindowLengths, hop_samples_for
from hf_utils.errors import UserError
from hf_utils.files import EXPORTED_SUFFIX
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.families import expect_known_stats, window_samples_for
from hf_utils.models.heads import HeadOptions
from hf_utils.models.loading import load_classifier
from hf_utils.models.temperature import forget_temperature, read_temperature


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model with what makes its inputs.

    Attributes:
        precision: of matrix products and convolutions, bfloat16 or float16; None for the model's own.
    """

    model: Any
    feature_extractor: Any
    lengths: WindowLengths
    precision: torch.dtype | None = None


def load_config(arguments: RunArguments) -> Any:
    """Return the configuration of the checkpoint. Raises UserError if there is none."""
    if is_exported(arguments):
        return _load_exported(arguments).model.config
    return _find_checkpoint(arguments).load_config()


def check_checkpoint(arguments: RunArguments) -> None:
    """Raise UserError if the checkpoint cannot be used, as far as it shows without its weights being loaded."""
    if is_exported(arguments):
        return
    checkpoint = _find_checkpoint(arguments)
    checkpoint.load_config()
    checkpoint.check_files()


def load_model(arguments: RunArguments, genres: list[str] | None) -> Classifier:
    """Return the classifier that the options name; `genres` None keeps the checkpoint's own.

    Raises:
        UserError: as `load_classifier`; where nothing is trained, also for a head that was not trained, or a
            spectrogram whose mean and deviation are not known.
    """
    if is_exported(arguments):
        return _load_exported(arguments)
    model_args, data_args, training_args = arguments.model, arguments.data, arguments.training
    # A run that trains and then tags files loads what it has trained, with the checkpoint's own genres.
    trains = training_args.do_train and genres is not None
    model, feature_extractor = load_classifier(
        _find_checkpoint(arguments),
        genres,
        window_seconds=data_args.window_seconds,
        head=HeadOptions(**{field.name: getattr(model_args, field.name) for field in dataclasses.fields(HeadOptions)}),
        spectrogram=model_args.spectrogram_settings(),
        allow_new_head=trains,
    )
    if trains:
        forget_temperature(model.config)  # that of the weights as they were
    else:
        expect_known_stats(feature_extractor)
        read_temperature(model.config)  # to be refused before any work
    sample_rate = feature_extractor.sampling_rate
    window_samples = window_samples_for(model.config, feature_extractor, data_args.window_seconds)
    hop_samples = hop_samples_for(window_samples, data_args.eval_hop_seconds, sample_rate)
    precision = torch.bfloat16 if training_args.bf16 else torch.float16 if training_args.fp16 else None
    return Classifier(model, feature_extractor, WindowLengths(sample_rate, window_samples, hop_samples), precision)


def is_exported(arguments: RunArguments) -> bool:
    """Whether the checkpoint is a file that `hf_utils.export` wrote.

    Raises:
        UserError: more than tagging is asked of such a file, or an option that its graph does not follow.
    """
    name, training_args, given = arguments.model.model_name_or_path, arguments.training, arguments.given
    if not name.endswith(EXPORTED_SUFFIX):
        return False
    if training_args.do_train or training_args.do_eval:
        raise UserError(
            f"{name} is an exported file, which only tags files: add --do_predict --predict_path, or pass the folder "
            "that it was exported from"
        )
    of_model = {field.name for field in dataclasses.fields(arguments.model)} - {"model_name_or_path", "ensemble_with"}
    fixed = [option for option in given if option in {*of_model, "window_seconds", "bf16", "fp16"}]
    if given.get("precision") in ("bf16", "fp16"):
        fixed.append("precision")
    if fixed:
        raise UserError(f"{', '.join(fixed)}: an exported file such as {name} is as it is: leave these options out")
    return True


def _load_exported(arguments: RunArguments) -> Classifier:
    # Here, because onnxruntime need not be there otherwise.
    from hf_utils.export.onnx_file import load_onnx

    model, feature_extractor, lengths = load_onnx(arguments.model.model_name_or_path)
    hop_seconds = arguments.data.eval_hop_seconds
    if hop_seconds is not None:
        hop_samples = hop_samples_for(lengths.window_samples, hop_seconds, lengths.sample_rate)
        lengths = dataclasses.replace(lengths, hop_samples=hop_samples)
    return Classifier(model, feature_extractor, lengths)


def _find_checkpoint(arguments: RunArguments) -> Checkpoint:
    model_args = arguments.model
    return Checkpoint(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        trust_remote_code=model_args.trust_remote_code,
        allow_pickle=model_args.allow_pickle,
        token=arguments.training.hub_token,
        cache_dir=model_args.cache_dir,
    )
