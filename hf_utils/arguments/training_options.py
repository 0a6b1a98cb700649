"""The options of training that this project documents, with defaults for this job, and what is checked without torch.

`hf_utils.arguments.training` makes transformers' TrainingArguments of them, with all its other options. Importing that
takes seconds, so mistakes are found here first.
"""

import ast
import dataclasses
import functools
import importlib.util
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hf_utils.arguments.options import option
from hf_utils.errors import UserError
from hf_utils.files import is_complete

_job = partial(option, group="what to do (default: train, then evaluate validation and test)")
_training = partial(option, group="training", trains=True)
_selection = partial(option, group="evaluation and choice of the checkpoint", trains=True)
_hub = partial(option, group="Hub")
_output = partial(option, group="output")
# What every evaluation while training reports, per track; with the loss and the accuracy of single windows, what may
# choose the checkpoint. Those that fall as a model gets better are named.
TRACKED_SCORES = ("accuracy", "f1", "roc_auc", "log_loss", "ece")
_SELECTING_SCORES = (*TRACKED_SCORES, "loss", "window_accuracy")
_FALLING_SCORES = ("loss", "log_loss", "ece")
# Types that are known by how they are written.
_PLAIN_TYPES = {"bool": bool, "int": int, "float": float, "str": str}
_PLAIN_TYPES |= {f"{text} | None": kind | None for text, kind in _PLAIN_TYPES.items()}
# The values of enumerations of transformers, which imports torch for them.
LearningRateSchedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "reduce_lr_on_plateau",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
    "greedy",
]


def _run_folder(options: Mapping[str, Any]) -> str:
    """Another folder than the model's where nothing is trained: the model's may be the run that trained it."""
    trains = options.get("do_train") or not (options.get("do_eval") or options.get("do_predict"))
    kind = "" if trains else "-eval" if options.get("do_eval") else "-predict"
    ensemble = "-ensemble" if options.get("ensemble_with") else ""
    return str(Path("runs", Path(options.get("model_name_or_path", "run")).name + ensemble + kind))


@dataclasses.dataclass(repr=False)  # a generated one would show the token
class TrainingOptions:
    """What to do, how to train, what to keep and where. Raises UserError on contradictions."""

    do_train: bool = _job(False, "Fine-tune the model.")
    do_eval: bool = _job(False, "Evaluate validation, test and --eval_datasets, after training or without it.")
    do_predict: bool = _job(False, "Tag the files of --predict_path.")
    predict_path: str | None = _job(None, "Audio file, or folder with files at any depth, to tag.", metavar="PATH")
    per_window: bool = _job(False, "Also write the genre of every window of a tagged file: a timeline.")
    unknown_below: float | None = _job(
        None,
        "Write `unknown` for a tagged file whose likeliest genre is less probable than this. (default: always the "
        "likeliest genre)",
        metavar="PROBABILITY",
        above=0,
        below=1,
    )

    num_train_epochs: float = _training(
        10.0, "Number of epochs: visits to every training track, times --windows_per_track.", metavar="EPOCHS", above=0
    )
    max_steps: int = _training(
        -1, "Number of optimiser steps, instead of epochs; -1 to count epochs.", metavar="STEPS", at_least=-1
    )
    learning_rate: float = _training(5e-5, "Highest learning rate.", above=0)
    lr_scheduler_type: LearningRateSchedule = _training(
        "linear", "Course of the learning rate: linear, cosine, constant_with_warmup, reduce_lr_on_plateau ..."
    )
    warmup_steps: float = _training(
        0.1, "Steps of rising learning rate; below 1 it is a share of all steps.", metavar="STEPS", at_least=0
    )
    weight_decay: float = _training(0.0, "Weight decay of AdamW, on all but biases and norms.", at_least=0)
    head_learning_rate: float | None = _training(
        None, "Highest learning rate of the head. (default: that of --learning_rate)", above=0
    )
    layer_decay: float = _training(
        1.0,
        "Factor by which the learning rate falls from each block of the backbone to the one below it; 1 for none.",
        above=0,
        at_most=1,
    )
    lora_rank: int | None = _training(
        None,
        "Rank of adapters (LoRA) in the linear layers of blocks that --freeze leaves to learn: with the head, they "
        "learn in the place of the backbone, and are merged into the saved model. (default: no adapters)",
        metavar="RANK",
        at_least=1,
    )
    stages: list[dict] | None = option(
        None,
        "In a YAML file: a list of options that differ from stage to stage; each stage starts from the model of the "
        "one before. (default: one stage)",
        group="training",
        yaml_only=True,
    )
    per_device_train_batch_size: int = _training(8, "Windows per step and device.", metavar="WINDOWS", at_least=1)
    gradient_accumulation_steps: int = _training(1, "Batches per optimiser step.", metavar="BATCHES", at_least=1)
    label_smoothing_factor: float = _training(
        0.0, "Share of the label that is spread over all genres, 0 to 1.", at_least=0, below=1
    )
    class_weights: Literal["none", "balanced"] = _training("none", "Weigh the loss by the rarity of each genre.")
    balanced_sampling: bool = _training(
        False, "Visit each genre equally often in an epoch, however many tracks it has."
    )
    average_weights: Literal["none", "ema", "swa"] = _training(
        "none",
        "Evaluate, choose and save a running mean of the weights: ema of about the last tenth of the steps so far, "
        "swa of the last quarter of all steps.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _training(
        "auto",
        "Numbers in matrix products. (default: auto = bf16 where the GPU or CPU has it in hardware, else fp32)",
        trains=False,
    )
    use_cpu: bool = _training(False, "Use no GPU. (default: off where there is a GPU)", trains=False)
    seed: int = _training(42, "Seed of the new head, the order of tracks and the windows.", trains=False)
    dataloader_num_workers: int | None = _training(
        None,
        "Processes that make features beside the model. (default: 0 on the CPU, which they would share with the "
        "model; else all cores but one, at most 12)",
        at_least=0,
        trains=False,
    )
    resume_from_checkpoint: str | None = _training(
        None, "Continue from a checkpoint-N folder, or the newest here (auto) or on the Hub (hub).", metavar="FOLDER"
    )

    eval_strategy: Literal["no", "steps", "epoch"] = _selection(
        "epoch", "When to evaluate the validation set while training."
    )
    per_device_eval_batch_size: int | None = _selection(
        None,
        "Most windows per batch and device that is evaluated or tagged; on a GPU halved until they fit, but not under "
        "fsdp and deepspeed. (default: 128 on a GPU; under these, and on the CPU, 16)",
        metavar="WINDOWS",
        at_least=1,
        trains=False,
    )
    load_best_model_at_end: bool = _selection(True, "Keep the checkpoint that is best on validation, not the last.")
    metric_for_best_model: str = _selection(
        "accuracy",
        "Score on validation that decides: accuracy, f1, roc_auc, log_loss, ece, and, of single windows, loss and "
        "window_accuracy. Equal scores are told apart by log_loss.",
    )
    early_stopping_patience: int = _selection(
        0, "Stop after so many evaluations without a better one; 0 for never.", metavar="EVALUATIONS", at_least=0
    )

    push_to_hub: bool = _hub(False, "Push the model, its card and its results to the Hub.")
    hub_model_id: str | None = _hub(None, "Repository to push to. (default: the folder's name, in your namespace)")
    hub_private_repo: bool | None = _hub(None, "Make a new repository private. (default: as the organisation has it)")
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] = _hub(
        "end", "What to push: the end, every save, or the last or all checkpoints."
    )
    hub_token: str | None = _hub(
        None, "Token with the right to write, saved nowhere. (default: HF_TOKEN or `hf auth login`)"
    )

    output_dir: str | None = _output(
        None,
        "Folder of the run. (default: runs/<model>, with -eval or -predict after it where nothing is trained)",
        metavar="FOLDER",
        derive=_run_folder,
    )
    mistakes: int = _output(
        0,
        "Number of missed test tracks on a page to listen to, mistakes.html: excerpts of the recordings, which may "
        "not be yours to pass on, in the folder audio beside it, and what decided.",
        metavar="TRACKS",
        at_least=0,
    )
    overwrite: bool = _output(
        False,
        "Replace the results of a finished run in --output_dir; with --resume_from_checkpoint auto, begin again where "
        "no checkpoint can be continued.",
    )
    save_strategy: Literal["no", "steps", "epoch", "best"] = _output(
        "epoch", "When to save a checkpoint.", trains=True
    )
    save_total_limit: int | None = _output(
        2, "Number of checkpoints kept, the best among them.", at_least=1, trains=True
    )
    logging_steps: float = _output(
        10, "Steps between logged losses; below 1 it is a share of all steps.", metavar="STEPS", trains=True
    )
    report_to: None | str | list[str] = _output("tensorboard", "Where curves go: tensorboard, wandb ..., all or none.")

    @staticmethod
    def complete_class() -> type:
        """Return the class that has all options of TrainingArguments; see `options.is_incomplete`."""
        from hf_utils.arguments.training import ClassificationTrainingArguments

        return ClassificationTrainingArguments

    @staticmethod
    @functools.cache
    def further_options() -> dict[str, dataclasses.Field | None]:
        """Return the options of TrainingArguments by name, read from its source, which is not run.

        Of a plain type and with a plain default, it is the field; of others, None.
        """
        source = Path(importlib.util.find_spec("transformers.training_args").origin).read_text(encoding="utf-8")
        classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
        (stock,) = [node for node in classes if node.name == "TrainingArguments"]
        return {node.target.id: _read_field(node) for node in stock.body if isinstance(node, ast.AnnAssign)}

    def __post_init__(self):
        self._check_job()
        self._check_selection()
        if self.balanced_sampling and self.class_weights == "balanced":
            raise UserError(
                "balanced_sampling and class_weights: balanced both make up for rare genres, so that these would "
                "count too much: give one of them"
            )

    def _check_job(self) -> None:
        if self.max_steps == 0:
            raise UserError("max_steps is 0, which trains nothing: give more, or -1 to count epochs")
        if self.do_predict and self.predict_path is None:
            raise UserError("do_predict needs predict_path: the file or folder to tag")
        if self.predict_path is not None:
            if not self.do_predict:
                raise UserError("predict_path is given, but not do_predict, which would use it")
            self.predict_path = os.path.expanduser(self.predict_path)
            if not os.path.exists(self.predict_path):
                raise UserError(f"predict_path is {self.predict_path}, which does not exist")
        for name, is_given in (("per_window", self.per_window), ("unknown_below", self.unknown_below is not None)):
            if is_given and not self.do_predict:
                raise UserError(f"{name} is given, but not do_predict, which would use it")
        if self.mistakes and not self.do_eval and (self.do_train or self.do_predict):
            raise UserError("mistakes is given, but not do_eval, which would find them")
        writes_results = self.do_train or self.do_eval or not self.do_predict
        # A damaged file may be anybody's: it is not written over, either.
        has_results = is_complete(os.path.expanduser(self.output_dir or "")) is not False
        if writes_results and has_results and not (self.overwrite or self.resume_from_checkpoint):
            raise UserError(
                f"output_dir {self.output_dir} holds the results of a run: choose another, or add overwrite"
            )

    def _check_selection(self) -> None:
        if self.selecting_score not in _SELECTING_SCORES:
            raise UserError(
                f"metric_for_best_model is {self.metric_for_best_model}, expected one of "
                f"{', '.join(_SELECTING_SCORES)}"
            )
        evaluates, saves = strategy_name(self.eval_strategy), strategy_name(self.save_strategy)
        if self.load_best_model_at_end and saves != "best" and evaluates != saves:
            raise UserError(
                f"load_best_model_at_end needs evaluations and checkpoints together, but eval_strategy is {evaluates} "
                f"and save_strategy is {saves}: set them equal, or load_best_model_at_end: false"
            )
        if self.early_stopping_patience and (evaluates == "no" or not self.load_best_model_at_end):
            raise UserError(
                "early_stopping_patience needs eval_strategy: epoch or steps, and load_best_model_at_end: true"
            )
        if self.early_stopping_patience and self.average_weights == "swa":
            raise UserError(
                "early_stopping_patience could end the training before average_weights: swa begins, in the last "
                "quarter: leave it out, or choose average_weights: ema"
            )

    @property
    def selecting_score(self) -> str:
        """The score that chooses the checkpoint, by its own name."""
        return self.metric_for_best_model.removeprefix("eval_")

    @property
    def selecting_score_rises(self) -> bool:
        """Whether that score is better the higher it is."""
        return self.selecting_score not in _FALLING_SCORES


def strategy_name(strategy: Any) -> str:
    """Return a strategy as it is written, whether it is still text or a member of its enumeration."""
    return getattr(strategy, "value", strategy)


def _read_field(declared: ast.AnnAssign) -> dataclasses.Field | None:
    hint = _PLAIN_TYPES.get(ast.unparse(declared.annotation))
    try:
        values = {keyword.arg: ast.literal_eval(keyword.value) for keyword in declared.value.keywords}
    except ValueError:  # an expression
        return None
    if hint is None:
        return None
    field = dataclasses.field(**values)
    field.name, field.type = declared.target.id, hint
    return field
