"""The checkpoint that a run continues from, and the earlier run that it must not write over."""

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import FEATURE_EXTRACTOR_NAME

from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.arguments.run_options import deciding_options, differing_options
from hf_utils.augmentation.corruptions import Corruption
from hf_utils.augmentation.pipeline import read_augmentation
from hf_utils.data.corpus import parse_eval_datasets
from hf_utils.data.split_record import RECORD_FILE, SplitRecord
from hf_utils.errors import UserError
from hf_utils.files import ADAPTER_FOLDER, RESULTS_FILE, hash_content, is_complete, to_json, write_atomically
from hf_utils.models.spectrogram_cnn.feature_extraction_spectrogram_cnn import SETTINGS, SpectrogramCNNFeatureExtractor

logger = logging.getLogger(__name__)
OPTIONS_FILE = "training_options.json"
_WEIGHT_FILES = "config.json", "*.safetensors", "pytorch_model*.bin"
# Compared by what is in them (the data's record, the content of the transforms, the windows of a step), of no effect
# on the weights, or about how and not what is computed.
_NOT_COMPARED = frozenset(
    """
    dataset_name dataset_config_name dataset_revision audio_column_name label_column_name genres on_bad_audio
    split_protocol split_seed num_folds fold group_segments train_datasets train_filter allow_seen_tracks
    augmentation noise_folder trust_remote_code allow_pickle ensemble_with
    per_device_train_batch_size gradient_accumulation_steps eval_accumulation_steps
    eval_datasets corruptions do_train do_eval do_predict stages use_cpu hub_strategy hub_always_push hub_revision
    gradient_checkpointing gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode
    deepspeed fsdp fsdp_config ddp_backend ddp_timeout ddp_find_unused_parameters ddp_bucket_cap_mb
    ddp_broadcast_buffers accelerator_config parallelism_config log_on_each_node local_rank
    """.split()
)
_LENGTH = " (the learning rate of this schedule depends on the length of the training)"
_MEANINGS = {
    "num_train_epochs": _LENGTH,
    "max_steps": _LENGTH,
    "precision": " (`auto` chooses by the machine)",
    "windows_per_step": " (per_device_train_batch_size x gradient_accumulation_steps x processes)",
    "transforms": " (what the file of --augmentation, and the recordings it names, hold)",
}
_LACKS_STATE = (
    "lacks the state of the optimiser, the schedule or the random numbers (as under save_only_model), so no training "
    "can continue from it as if never stopped"
)
_ABSOLUTE_SCHEDULES = ("constant", "reduce_lr_on_plateau", "greedy")  # as far as training goes, whatever its length
_WARMED_SCHEDULES = ("constant_with_warmup", "inverse_sqrt")  # likewise, where the warm-up is counted in steps


def check_checkpoints(arguments: RunArguments) -> None:
    """Check what can be checked of an earlier run before anything long starts.

    Raises:
        UserError: as `find_checkpoint`, or the checkpoint at hand is of a training with other options, or, where none
            can be continued, the finished run.
    """
    training = arguments.training
    output_dir, resume = training.output_dir, training.resume_from_checkpoint
    _check_folders(output_dir, resume, overwrite=training.overwrite)
    if resume in (None, "hub"):  # where a later one may be
        return
    checkpoint = _find_newest(output_dir, overwrite=training.overwrite) if resume == "auto" else resume
    if checkpoint is not None:
        check_options(checkpoint, describe_options(arguments))
    elif is_complete(output_dir):  # its results would be replaced by those of a training from the start
        check_options(output_dir, describe_options(arguments))


def _check_folders(output_dir: str, resume_from_checkpoint: str | None, *, overwrite: bool) -> None:
    """Raise UserError if there is an earlier run of which nothing is said, or nothing to resume from."""
    if resume_from_checkpoint in ("auto", "hub"):
        return
    if resume_from_checkpoint is not None:
        if not _is_whole(Path(resume_from_checkpoint)):
            raise UserError(
                f"--resume_from_checkpoint {resume_from_checkpoint} holds no whole trainer_state.json, so no training "
                "can continue from it. Name a checkpoint-N folder of a run, or `auto` for the newest one in "
                "--output_dir."
            )
        if not _can_continue(Path(resume_from_checkpoint)):
            raise _refuse(resume_from_checkpoint)
    if not overwrite and _list_checkpoints(output_dir) and not _is_within(resume_from_checkpoint, output_dir):
        raise UserError(
            f"--output_dir {output_dir} holds the checkpoints of an earlier run. Continue it by "
            "--resume_from_checkpoint auto, replace it by --overwrite, or choose another folder."
        )


def _list_checkpoints(output_dir: str) -> list[Path]:
    """Return the checkpoint folders of a run, the newest first."""
    name = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
    folders = {path: match for path in Path(output_dir).glob("*/") if (match := name.fullmatch(path.name))}
    return sorted(folders, key=lambda path: int(folders[path][1]), reverse=True)


def _is_within(checkpoint: str | None, output_dir: str) -> bool:
    """Whether a checkpoint, if there is one, is of the run in `output_dir`."""
    return checkpoint is not None and Path(checkpoint).absolute().parent.resolve() == Path(output_dir).resolve()


def _find_newest(output_dir: str, *, overwrite: bool) -> str | None:
    """Return the newest checkpoint that can be continued, or None.

    One that was not saved to its end, since the process was killed, is passed over, and so is one that lost part of
    its state: from an older one, the training ends with the same weights.

    Raises:
        UserError: there are whole checkpoints, none of them can be continued, and the run may not be written over.
    """
    whole = [folder for folder in _list_checkpoints(output_dir) if _is_whole(folder)]
    for folder in whole:
        if _can_continue(folder):
            return str(folder)
    if whole and not overwrite:
        raise UserError(
            f"--resume_from_checkpoint auto: {whole[0]} {_LACKS_STATE}. Add --overwrite to begin this run again, or "
            "choose another --output_dir."
        )
    return None


def _is_whole(checkpoint: Path) -> bool:
    """Whether the last file that the Trainer writes of a checkpoint is there, and can be read."""
    try:
        return "global_step" in _read_state(checkpoint)
    except (OSError, ValueError, TypeError):
        return False


def _can_continue(checkpoint: Path) -> bool:
    """Whether a whole checkpoint has what its training would go on with, or was at the end of it."""
    state = _read_state(checkpoint)
    return state["global_step"] >= state.get("max_steps", math.inf) or _has_state(checkpoint)


def _has_state(checkpoint: Path) -> bool:
    """Whether a checkpoint has the state of the optimiser, the schedule and the random numbers.

    DeepSpeed keeps the first two in a folder `global_step...`, FSDP the first in a folder `optimizer_0`.
    """
    has_optimizer = any(checkpoint.glob("*optimizer*")) and (checkpoint / "scheduler.pt").is_file()
    has_random_state = any(checkpoint.glob("rng_state*.pth"))
    return has_random_state and (has_optimizer or any(checkpoint.glob("global_step*")))


def check_state(checkpoint: str, *, scales_loss: bool) -> None:
    """Check that a training which is not at its end can continue from `checkpoint`.

    Where something is missing, the Trainer itself would go on without a word, with a new optimiser and the learning
    rate from its beginning.

    Args:
        scales_loss: whether the training has a scaler of the loss, as fp16 needs.

    Raises:
        UserError: the checkpoint lacks part of the state.
    """
    folder = Path(checkpoint)
    if not _has_state(folder) or (scales_loss and not (folder / "scaler.pt").is_file()):
        raise _refuse(checkpoint)


def _refuse(checkpoint: str) -> UserError:
    return UserError(
        f"--resume_from_checkpoint: {checkpoint} {_LACKS_STATE}. Start a new run from its weights: "
        f"--model_name_or_path {checkpoint} --output_dir ..."
    )


def _read_state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))


def find_checkpoint(output_dir: str, resume_from_checkpoint: str | None, *, overwrite: bool) -> str | None:
    """Return the checkpoint to continue from: the one named, the newest of `output_dir` for "auto", or None.

    Without one, the checkpoints, curves and adapters of an earlier run in `output_dir` are removed; for "auto", only
    with `overwrite`. So they are with `overwrite` where the named one is in another folder. Its results are kept until
    there are new ones, but are complete no more.

    Raises:
        UserError: there is an earlier run of which nothing is said, or nothing to resume from.
    """
    _check_folders(output_dir, resume_from_checkpoint, overwrite=overwrite)
    checkpoint = resume_from_checkpoint
    if resume_from_checkpoint == "auto":
        checkpoint = _find_newest(output_dir, overwrite=overwrite)
        if checkpoint is not None:
            logger.info("Continuing from %s", checkpoint)
        elif _list_checkpoints(output_dir):
            logger.warning("No checkpoint in %s can be continued: from the start", output_dir)
        else:
            logger.info("No checkpoint yet: from the start")
    if resume_from_checkpoint is None or (overwrite and not _is_within(checkpoint, output_dir)):
        folders = (Path(output_dir, name) for name in ("tensorboard", ADAPTER_FOLDER))
        for old in (*Path(output_dir).glob("checkpoint-*"), *folders):
            shutil.rmtree(old, ignore_errors=True)
        _reopen_results(output_dir)
    return checkpoint


def _reopen_results(output_dir: str) -> None:
    """Say of the results of an earlier run that they are not complete: its weights are about to be replaced.

    Whoever finds them after a kill would take them for those of the new run.
    """
    if is_complete(output_dir):
        path = Path(output_dir, RESULTS_FILE)
        results = json.loads(path.read_text(encoding="utf-8"))
        write_atomically(path, json.dumps({**results, "complete": False}, indent=2, sort_keys=True) + "\n")


def describe_options(arguments: RunArguments) -> dict[str, Any]:
    """Return what decides a training beside its data: it can go on from a checkpoint only where all of this is equal.

    Batches may be cut up otherwise, over processes and accumulation, as long as a step has as many windows.
    """
    training = arguments.training
    deciding = deciding_options(arguments.config())
    options = {name: value for name, value in deciding.items() if name not in _NOT_COMPARED}
    scheduler, warmup = training.lr_scheduler_type.value, training.warmup_steps
    is_absolute = scheduler in _ABSOLUTE_SCHEDULES or (scheduler in _WARMED_SCHEDULES and not 0 < warmup < 1)
    intervals = (training.eval_strategy, training.eval_steps), (training.save_strategy, training.save_steps)
    has_shares = any(strategy == "steps" and steps < 1 for strategy, steps in intervals)
    # The beginning of swa and shares of all steps depend on the end, and weights alone are enough only there.
    is_tied = training.average_weights == "swa" or has_shares or training.save_only_model
    if is_absolute and not is_tied:
        for name in ("num_train_epochs", "max_steps"):
            options.pop(name, None)
    # What "auto" chose depends on the machine.
    options["precision"] = "bf16" if training.bf16 else "fp16" if training.fp16 else "fp32"
    if training.eval_strategy == "steps":
        options["eval_steps"] = training.eval_steps
    processes = training.world_size * max(1, training.n_gpu)
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    options["windows_per_step"] = batch * processes
    if Path(arguments.model.model_name_or_path).is_dir():
        options["model_name_or_path"] = _describe_weights(Path(arguments.model.model_name_or_path))
        options.pop("model_revision", None)
    if arguments.data.augmentation is not None:
        augmentation = read_augmentation(arguments.data.augmentation, arguments.data.noise_folder)
        content = json.dumps(augmentation.config, sort_keys=True)
        options["transforms"] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return to_json(options)


def _describe_weights(folder: Path) -> str:
    """Return what a model in a folder is told apart by: its path is private, and may change."""
    files = sorted(path for pattern in _WEIGHT_FILES for path in folder.glob(pattern))
    contents = [[path.name, hash_content(path)] for path in files]
    return f"a folder with weights {hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]}"


def write_options(folder: str | os.PathLike, options: Mapping[str, Any]) -> None:
    """Write the options of a training beside what it saved in `folder`, for `check_options`."""
    write_atomically(Path(folder, OPTIONS_FILE), json.dumps(options, indent=1, sort_keys=True) + "\n")


class KeepOptions(TrainerCallback):
    """Writes the options of the training into every checkpoint."""

    def __init__(self, options: Mapping[str, Any]):
        self._options = options

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            write_options(Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"), self._options)


def check_options(checkpoint: str, options: Mapping[str, Any]) -> None:
    """Raise UserError, with the differences, if a training with other `options` would go on from `checkpoint`."""
    path = Path(checkpoint, OPTIONS_FILE)
    if not path.is_file():
        logger.warning("%s has no %s: nothing checks that its training had the same options.", checkpoint, path.name)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    # An earlier version did not say what "auto" had chosen.
    unknown = frozenset({"precision"} if before.get("precision") == "auto" else ())
    _expect_same(checkpoint, differing_options(before, options, ignored=unknown))


def check_features(checkpoint: str, now: Any) -> None:
    """Raise UserError, with the differences, if a training would go on from `checkpoint` with another spectrogram.

    Options that nobody gave may have had another default in the version that wrote the checkpoint.

    Args:
        now: the feature extractor.
    """
    path = Path(checkpoint, FEATURE_EXTRACTOR_NAME)
    if isinstance(now, SpectrogramCNNFeatureExtractor) and path.is_file():
        before = SpectrogramCNNFeatureExtractor.from_pretrained(checkpoint)
        values = {name: (getattr(before, name), getattr(now, name)) for name in SETTINGS}
        _expect_same(checkpoint, {name: pair for name, pair in values.items() if pair[0] != pair[1]})


def _expect_same(checkpoint: str, different: Mapping[str, tuple[Any, Any]]) -> None:
    """Raise UserError if something is different: {option: (before, now)}."""
    if different:
        lines = [
            f"  {name}: {old} before, {new} now{_MEANINGS.get(name, '')}" for name, (old, new) in different.items()
        ]
        raise UserError(
            f"--resume_from_checkpoint: the training of {checkpoint} had other options, and cannot go on with these "
            "as if nothing had changed:\n"
            + "\n".join(lines)
            + "\nGive the options of before, or start a new run from "
            f"the weights: --model_name_or_path {checkpoint} --output_dir ..."
        )


def check_data(checkpoint: str, now: SplitRecord) -> None:
    """Raise UserError, with the difference, if a training would go on from `checkpoint` with other data."""
    path = Path(checkpoint, RECORD_FILE)
    if not path.is_file():  # of an earlier version
        return
    if differences := SplitRecord.read(path, checkpoint).list_differences(now):
        raise UserError(
            f"--resume_from_checkpoint: the data of {checkpoint} was another:\n"
            + "\n".join(f"  {line}" for line in differences)
            + "\nGive the options and the music of the run that is to go on, or start another one in another folder."
        )


def check_evaluations(folder: str, arguments: RunArguments, corruptions: Sequence[Corruption]) -> None:
    """Raise UserError, with what to do, if the finished run in `folder` has other evaluations than are asked for.

    Args:
        folder: of a run that is complete.
        corruptions: all of them.
    """
    results = json.loads(Path(folder, RESULTS_FILE).read_text(encoding="utf-8"))
    asked = parse_eval_datasets(arguments.data.eval_datasets)
    found = parse_eval_datasets(results["config"].get("eval_datasets"))
    measured = [(row["kind"], row["severity"]) for row in results.get("robustness", [])]
    wanted = [(corruption.kind, corruption.severity) for corruption in corruptions]
    benchmarks = results.get("robustness_benchmark"), corruptions[0].benchmark if corruptions else None
    lines = []
    if asked != found:
        lines.append(f"  eval_datasets: {_show_sets(found)} before, {_show_sets(asked)} now")
    if set(measured) != set(wanted) or benchmarks[0] != benchmarks[1]:
        before, now = map(_show_corruptions, (measured, wanted), benchmarks)
        lines.append(f"  corruptions: {before} before, {now} now")
    if lines:
        raise UserError(
            f"{folder} is finished, and was evaluated otherwise:\n" + "\n".join(lines) + "\nGive the options of "
            f"before, or evaluate it again: --model_name_or_path {folder} --do_eval and these options, without "
            "stages."
        )


def _show_sets(sets: Mapping[str, str]) -> str:
    return " ".join(f"{name}={source}" for name, source in sets.items()) or "none"


def _show_corruptions(pairs: Sequence[tuple[str, str]], benchmark: str | None) -> str:
    kinds = ", ".join(dict.fromkeys(kind for kind, _ in pairs))
    name = f" of {benchmark}" if benchmark else ""
    return f"{len(pairs)} ({kinds}){name}" if pairs else "none"
