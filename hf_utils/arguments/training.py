"""transformers' TrainingArguments with the options of this project, and a precision that fits the hardware.

What needs torch to be checked or chosen is here; `hf_utils.arguments.training_options` has the rest. All options of
TrainingArguments that are not declared there are accepted as they are.
"""

import dataclasses
import json
import os

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_utils.arguments.training_options import TrainingOptions, strategy_name
from hf_utils.cores import count_cores
from hf_utils.errors import UserError

_CPU_BF16_UNITS = ("avx512_bf16", "amx_bf16")
_PLATEAU_SCHEDULERS = ("reduce_lr_on_plateau", "greedy")
# Stock options that cannot work here, with the value that does, and why.
_FIXED_OPTIONS = {
    "dataloader_drop_last": (False, "it would leave out evaluated windows, too"),
    "remove_unused_columns": (False, "the collator picks the columns, and needs those a model does not"),
    "prediction_loss_only": (False, "the choice of the checkpoint needs more than the loss"),
    "batch_eval_metrics": (False, "scores are of whole tracks, whose windows are in several batches"),
    "eval_do_concat_batches": (True, "scores are of whole tracks, whose windows are in several batches"),
    "label_names": (None, "the labels are found by the collator"),
    "enable_jit_checkpoint": (False, "a training that it cuts off would count as finished; end it at save_steps"),
    "auto_find_batch_size": (
        False,
        "it goes on with the weights of the attempt that ran out of memory, and with another batch than is recorded. "
        "Give a smaller per_device_train_batch_size with gradient_accumulation_steps",
    ),
    "neftune_noise_alpha": (None, "models of audio have no embeddings of words, to which it adds noise"),
    "ignore_data_skip": (False, "a resumed training would draw other windows than an uninterrupted one"),
}
# {option: its value that changes nothing}, of options that need all parameters in each process, under their names.
_UNSHARDED = {
    "head_learning_rate": None,
    "layer_decay": 1.0,
    "average_weights": "none",
    "lora_rank": None,
    "mistakes": 0,
}
_MOST_WORKERS = 12  # with 16, AST's windows came no faster


def count_free_cores() -> int:
    """Return the cores that each process of this machine has beside its own, at most `_MOST_WORKERS`."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(0, min(_MOST_WORKERS, count_cores() // processes - 1))


def has_bf16_hardware(use_cpu: bool) -> bool:
    """Whether the device that will be used multiplies bfloat16 in hardware; emulation is slower than float32."""
    if use_cpu:
        return any(torch.cpu.get_capabilities().get(unit, False) for unit in _CPU_BF16_UNITS)
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


@dataclasses.dataclass(repr=False)  # a generated one would show the token, which the inherited one hides
class ClassificationTrainingArguments(TrainingOptions, TrainingArguments):
    """TrainingArguments of run_classification.py. Raises UserError on contradictions.

    `do_train`, `do_eval`, `do_predict`, `bf16`, `fp16`, `use_cpu`, `per_device_eval_batch_size`,
    `dataloader_num_workers`, `dataloader_persistent_workers` and `greater_is_better` hold what was decided, whether or
    not it was asked for.
    Without `do_train`, the Trainer evaluates and saves nothing by itself. The Hub token is never pickled.
    """

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
        TrainingOptions.__post_init__(self)
        self._check_stock_options()
        job = self.do_train, self.do_eval, self.do_predict
        if self.do_train or not any(job):
            # Only then: an optimiser, even of one number, imports PyTorch's compiler, which takes a second and more.
            self._check_scheduler()
        self._check_sharding()
        # Without `use_cpu`, a machine without a GPU refuses bf16, and every process of torchrun believes it is alone.
        launched_on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
        self.use_cpu = self.use_cpu or launched_on_cpu or not torch.accelerator.is_available()
        self._choose_precision()
        if self.per_device_eval_batch_size is None:
            self.per_device_eval_batch_size = 16 if self.use_cpu or self._is_sharded() else 128
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = 0 if self.use_cpu else count_free_cores()
        if self.dataloader_persistent_workers is None:
            self.dataloader_persistent_workers = self.dataloader_num_workers > 0
        if self.dataloader_persistent_workers and self.dataloader_num_workers == 0:
            raise UserError("dataloader_persistent_workers is given, but dataloader_num_workers is 0: there are none")
        TrainingArguments.__post_init__(self)
        self._check_reporters()
        if self.lora_rank is not None and (self.activation_checkpointing_kwargs or {}).get("use_reentrant"):
            raise UserError(
                "activation_checkpointing_kwargs has use_reentrant, with which layers in a frozen backbone get no "
                "gradient, so that the adapters of lora_rank would not learn: leave it out"
            )
        # The stock class switches do_eval on whenever training evaluates.
        self.do_train, self.do_eval, self.do_predict = job if any(job) else (True, True, False)
        if not self.do_train:
            # Else the Trainer demands an evaluation set even to predict.
            self.eval_strategy, self.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
            self.load_best_model_at_end = False

    def __getstate__(self) -> dict:
        """Leave the token out: the Trainer pickles its arguments into every checkpoint."""
        return {**self.__dict__, "hub_token": None}

    def _check_stock_options(self) -> None:
        for name, (value, reason) in _FIXED_OPTIONS.items():
            if getattr(self, name) != value:
                raise UserError(f"{name} is {getattr(self, name)}, which cannot work here: {reason}. Leave {name} out")
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise UserError(
                f"train_sampling_strategy is {self.train_sampling_strategy}, expected random or sequential: all "
                "windows have one length"
            )
        rises = self.selecting_score_rises
        if self.greater_is_better not in (None, rises):
            raise UserError(
                f"greater_is_better is {self.greater_is_better}, but {self.selecting_score} is better the "
                f"{'higher' if rises else 'lower'} it is: leave it out"
            )
        self.greater_is_better = rises

    def _check_scheduler(self) -> None:
        """Try the scheduler, and tell one that watches the score which way it goes: else it takes any for a loss."""
        scheduler, options = strategy_name(self.lr_scheduler_type), self.lr_scheduler_kwargs or {}
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

    def _check_reporters(self) -> None:
        """Make the callbacks of `report_to` once: the Trainer does so only when data and model are loaded."""
        others = [name for name in self.report_to if name != "tensorboard"]  # which is always installed
        try:
            for callback in get_reporting_integration_callbacks(others):
                callback()
        except (ImportError, RuntimeError, ValueError) as error:
            raise UserError(f"report_to is {', '.join(self.report_to)}, which cannot be used here: {error}") from error

    def _check_sharding(self) -> None:
        """Refuse what would go wrong without a word where each process has only a part of the parameters."""
        given = [name for name, neutral in _UNSHARDED.items() if getattr(self, name) != neutral]
        if given and self._is_sharded():
            raise UserError(
                f"{', '.join(given)}: not with fsdp or deepspeed, which share the parameters out. Leave either out"
            )

    def _is_sharded(self) -> bool:
        launched = any(parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED"))
        return bool(self.fsdp or self.deepspeed or launched)

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
