"""transformers' TrainingArguments with defaults for this job, a precision that fits the hardware, and what to do.

Options that are declared here anew are those of `--help`; all others of TrainingArguments are accepted as they are.
The options of a search for hyper-parameters are here too.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments, get_scheduler
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType

from hf_utils.arguments.options import option
from hf_utils.errors import UserError
from hf_utils.files import is_complete

_search = partial(option, group="search for hyper-parameters")
_NUM_TRIALS = 30


@dataclasses.dataclass
class SearchArguments:
    """Whether to search instead of training once. Raises UserError on contradictions."""

    search: str | None = _search(
        None,
        "YAML file of options with ranges or choices, such as configs/search/optuna.yaml: train many times, compare "
        "on validation, and write best.yaml. (default: none)",
        metavar="FILE",
    )
    num_trials: int = _search(
        _NUM_TRIALS, "Trials of the search, those of earlier and of other processes included.", at_least=1
    )
    search_storage: str | None = _search(
        None,
        "Database that keeps the trials, for machines that share a search, such as postgresql://user@host/database; "
        "the search has the name of --output_dir. Saved and shown nowhere. (default: a file in --output_dir)",
        metavar="URL",
    )

    def __post_init__(self):
        if self.search is None:
            if self.num_trials != _NUM_TRIALS:
                raise UserError(f"num_trials is {self.num_trials}, but no search is given, which would use it")
            if self.search_storage is not None:
                raise UserError("search_storage is given, but no search, which would use it")
        elif not os.path.isfile(self.search):
            raise UserError(f"search is {self.search}, expected a YAML file of options with ranges or choices")


_job = partial(option, group="what to do (default: train, then evaluate validation and test)")
_training = partial(option, group="training")
_selection = partial(option, group="evaluation and choice of the checkpoint")
_hub = partial(option, group="Hub")
_output = partial(option, group="output")
_CPU_BF16_UNITS = ("avx512_bf16", "amx_bf16")
# What every evaluation while training reports, per track; with the loss and the accuracy of single windows, what may
# choose the checkpoint. Those that fall as a model gets better are named.
TRACKED_SCORES = ("accuracy", "f1", "roc_auc", "log_loss", "ece")
_SELECTING_SCORES = (*TRACKED_SCORES, "loss", "window_accuracy")
_FALLING_SCORES = ("loss", "log_loss", "ece")
_PLATEAU_SCHEDULERS = ("reduce_lr_on_plateau", "greedy")
# Stock options that cannot work here, with the value that does, and why.
_FIXED_OPTIONS = {
    "dataloader_drop_last": (False, "it would leave out evaluated windows, too"),
    "remove_unused_columns": (False, "the collator picks the columns, and needs those a model does not"),
    "prediction_loss_only": (False, "the choice of the checkpoint needs more than the loss"),
    "batch_eval_metrics": (False, "scores are of whole tracks, whose windows are in several batches"),
    "eval_do_concat_batches": (True, "scores are of whole tracks, whose windows are in several batches"),
    "label_names": (None, "the labels are found by the collator"),
}
_MOST_WORKERS = 12  # with 16, AST's windows came no faster


def count_free_cores() -> int:
    """Return the cores that each process of this machine has beside its own, at most `_MOST_WORKERS`."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(0, min(_MOST_WORKERS, (os.cpu_count() or 1) // processes - 1))


def _run_folder(options: Mapping[str, Any]) -> str:
    """Another folder than the model's where nothing is trained: the model's may be the run that trained it."""
    trains = options.get("do_train") or not (options.get("do_eval") or options.get("do_predict"))
    kind = "" if trains else "-eval" if options.get("do_eval") else "-predict"
    return str(Path("runs", Path(options.get("model_name_or_path", "run")).name + kind))


def has_bf16_hardware(use_cpu: bool) -> bool:
    """Whether the device that will be used multiplies bfloat16 in hardware; emulation is slower than float32."""
    if use_cpu:
        return any(torch.cpu.get_capabilities().get(unit, False) for unit in _CPU_BF16_UNITS)
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


@dataclasses.dataclass(repr=False)  # a generated one would show the token, which the inherited one hides
class ClassificationTrainingArguments(TrainingArguments):
    """TrainingArguments of run_classification.py. Raises UserError on contradictions.

    `do_train`, `do_eval`, `do_predict`, `bf16`, `fp16`, `use_cpu`, `dataloader_num_workers`,
    `dataloader_persistent_workers` and `greater_is_better` hold what was decided, whether or not it was asked for.
    Without `do_train`, the Trainer evaluates and saves nothing by itself. The Hub token is never pickled.
    """

    do_train: bool = _job(False, "Fine-tune the model.")
    do_eval: bool = _job(False, "Evaluate validation, test and --eval_datasets, after training or without it.")
    do_predict: bool = _job(False, "Tag the files of --predict_path.")
    predict_path: str | None = _job(None, "Audio file, or folder with files at any depth, to tag.", metavar="PATH")
    per_window: bool = _job(False, "Also write the genre of every window of a tagged file: a timeline.")

    num_train_epochs: float = _training(10.0, "Number of visits to every training track.", metavar="EPOCHS", above=0)
    max_steps: int = _training(
        -1, "Number of optimiser steps, instead of epochs; -1 to count epochs.", metavar="STEPS", at_least=-1
    )
    learning_rate: float = _training(5e-5, "Highest learning rate.", above=0)
    lr_scheduler_type: SchedulerType | str = _training(
        "linear", "Course of the learning rate: linear, cosine, constant_with_warmup, reduce_lr_on_plateau ..."
    )
    warmup_steps: float = _training(
        0.1, "Steps of rising learning rate; below 1 it is a share of all steps.", metavar="STEPS", at_least=0
    )
    weight_decay: float = _training(0.0, "Weight decay of AdamW, on all but biases and norms.", at_least=0)
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
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _training(
        "auto", "Numbers in matrix products. (default: auto = bf16 where the GPU or CPU has it in hardware, else fp32)"
    )
    use_cpu: bool = _training(False, "Use no GPU. (default: off where there is a GPU)")
    seed: int = _training(42, "Seed of the new head, the order of tracks and the windows.")
    dataloader_num_workers: int | None = _training(
        None,
        "Processes that make features beside the model. (default: 0 on the CPU, which they would share with the "
        "model; else all cores but one, at most 12)",
        at_least=0,
    )
    resume_from_checkpoint: str | None = _training(
        None, "Continue from a checkpoint-N folder, or the newest here (auto) or on the Hub (hub).", metavar="FOLDER"
    )

    eval_strategy: IntervalStrategy | str = _selection("epoch", "When to evaluate the validation set while training.")
    per_device_eval_batch_size: int = _selection(
        16, "Evaluated windows per batch and device.", metavar="WINDOWS", at_least=1
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
    hub_strategy: HubStrategy | str = _hub("end", "What to push: the end, every save, or the last or all checkpoints.")
    hub_token: str | None = _hub(
        None, "Token with the right to write, saved nowhere. (default: HF_TOKEN or `hf auth login`)"
    )

    output_dir: str | None = _output(
        None,
        "Folder of the run. (default: runs/<model>, with -eval or -predict after it where nothing is trained)",
        metavar="FOLDER",
        derive=_run_folder,
    )
    overwrite: bool = _output(False, "Replace the results of a finished run in --output_dir.")
    save_strategy: SaveStrategy | str = _output("epoch", "When to save a checkpoint.")
    save_total_limit: int | None = _output(2, "Number of checkpoints kept, the best among them.", at_least=1)
    logging_steps: float = _output(
        10, "Steps between logged losses; below 1 it is a share of all steps.", metavar="STEPS"
    )
    report_to: None | str | list[str] = _output("tensorboard", "Where curves go: tensorboard, wandb ..., all or none.")

    dataloader_persistent_workers: bool | None = dataclasses.field(
        default=None, metadata={"help": "Keep the data loader's processes from epoch to epoch. (default: yes)"}
    )
    logging_nan_inf_filter: bool = dataclasses.field(
        default=False,
        metadata={"help": "Log another loss than one that is not finite. A GPU waits for its answer in every step."},
    )
    remove_unused_columns: bool = dataclasses.field(
        default=False,
        metadata={"help": "Leave off: the collator picks the columns, and needs those a model does not."},
    )

    def __post_init__(self):
        self._check_job()
        self._check_stock_options()
        self._check_selection()
        self._check_scheduler()
        # Without `use_cpu`, a machine without a GPU refuses bf16, and every process of torchrun believes it is alone.
        launched_on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
        self.use_cpu = self.use_cpu or launched_on_cpu or not torch.accelerator.is_available()
        self._choose_precision()
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = 0 if self.use_cpu else count_free_cores()
        if self.dataloader_persistent_workers is None:
            self.dataloader_persistent_workers = self.dataloader_num_workers > 0
        if self.dataloader_persistent_workers and self.dataloader_num_workers == 0:
            raise UserError("dataloader_persistent_workers is given, but dataloader_num_workers is 0: there are none")
        job = self.do_train, self.do_eval, self.do_predict
        super().__post_init__()
        # The stock class switches do_eval on whenever training evaluates.
        self.do_train, self.do_eval, self.do_predict = job if any(job) else (True, True, False)
        if not self.do_train:
            # Else the Trainer demands an evaluation set even to predict.
            self.eval_strategy, self.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
            self.load_best_model_at_end = False

    def __getstate__(self) -> dict:
        """Leave the token out: the Trainer pickles its arguments into every checkpoint."""
        return {**self.__dict__, "hub_token": None}

    def _check_job(self) -> None:
        if self.do_predict and self.predict_path is None:
            raise UserError("do_predict needs predict_path: the file or folder to tag")
        if self.predict_path is not None:
            if not self.do_predict:
                raise UserError("predict_path is given, but not do_predict, which would use it")
            self.predict_path = os.path.expanduser(self.predict_path)
            if not os.path.exists(self.predict_path):
                raise UserError(f"predict_path is {self.predict_path}, which does not exist")
        if self.per_window and not self.do_predict:
            raise UserError("per_window is given, but not do_predict, which would use it")
        writes_results = self.do_train or self.do_eval or not self.do_predict
        # A damaged file may be anybody's: it is not written over, either.
        has_results = is_complete(os.path.expanduser(self.output_dir or "")) is not False
        if writes_results and has_results and not (self.overwrite or self.resume_from_checkpoint):
            raise UserError(
                f"output_dir {self.output_dir} holds the results of a run: choose another, or add overwrite"
            )

    def _check_stock_options(self) -> None:
        for name, (value, reason) in _FIXED_OPTIONS.items():
            if getattr(self, name) != value:
                raise UserError(f"{name} is {getattr(self, name)}, which cannot work here: {reason}. Leave it out")
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise UserError(
                f"train_sampling_strategy is {self.train_sampling_strategy}, expected random or sequential: all "
                "windows have one length"
            )
        if self.max_steps == 0:
            raise UserError("max_steps is 0, which trains nothing: give more, or -1 to count epochs")

    def _check_selection(self) -> None:
        metric = self.metric_for_best_model.removeprefix("eval_")
        if metric not in _SELECTING_SCORES:
            raise UserError(
                f"metric_for_best_model is {self.metric_for_best_model}, expected one of "
                f"{', '.join(_SELECTING_SCORES)}"
            )
        rises = metric not in _FALLING_SCORES
        if self.greater_is_better not in (None, rises):
            raise UserError(
                f"greater_is_better is {self.greater_is_better}, but {metric} is better the "
                f"{'higher' if rises else 'lower'} it is: leave it out"
            )
        self.greater_is_better = rises
        evaluates, saves = _value(self.eval_strategy), _value(self.save_strategy)
        if self.load_best_model_at_end and saves != "best" and evaluates != saves:
            raise UserError(
                f"load_best_model_at_end needs evaluations and checkpoints together, but eval_strategy is {evaluates} "
                f"and save_strategy is {saves}: set them equal, or load_best_model_at_end: false"
            )
        if self.early_stopping_patience and (evaluates == "no" or not self.load_best_model_at_end):
            raise UserError(
                "early_stopping_patience needs eval_strategy: epoch or steps, and load_best_model_at_end: true"
            )

    def _check_scheduler(self) -> None:
        """Try the scheduler, and tell one that watches the score which way it goes: else it takes any for a loss."""
        scheduler, options = _value(self.lr_scheduler_type), self.lr_scheduler_kwargs or {}
        if isinstance(options, str):
            options = json.loads(options)
        if scheduler in _PLATEAU_SCHEDULERS:
            mode = "max" if self.greater_is_better else "min"
            if options.get("mode", mode) != mode:
                raise UserError(
                    f"lr_scheduler_kwargs has mode: {options['mode']}, but {self.metric_for_best_model}, which "
                    f"decides, goes the other way: leave the mode out"
                )
            options = {**options, "mode": mode}
            self.lr_scheduler_kwargs = options
        # Made once for a parameter that learns nothing: some want their own options.
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=self.learning_rate)
        steps = {"num_warmup_steps": 1, "num_training_steps": 10}
        try:
            get_scheduler(scheduler, optimizer, **steps, scheduler_specific_kwargs=dict(options))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"lr_scheduler_type is {scheduler}, which does not go with lr_scheduler_kwargs: {options or 'none'}. "
                f"It says: {error}"
            ) from error

    def _choose_precision(self) -> None:
        """Set bf16 and fp16 from `precision`, unless they or `accelerate launch --mixed_precision` already say it."""
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        asked = {name for name in ("bf16", "fp16") if getattr(self, name) or launched == name}
        if self.precision == "auto" and not asked:
            self.bf16 = has_bf16_hardware(self.use_cpu)
            return
        if asked - {self.precision} and self.precision != "auto" or len(asked) > 1:
            raise UserError(
                f"precision is {self.precision}, but {' and '.join(sorted(asked))} was asked for: give one"
            )
        self.bf16, self.fp16 = ("bf16" in (self.precision, *asked)), ("fp16" in (self.precision, *asked))
        if self.fp16 and self.use_cpu:
            raise UserError("precision fp16 needs a GPU: use bf16 or fp32 on the processor")


def _value(strategy: Any) -> str:
    return getattr(strategy, "value", strategy)
