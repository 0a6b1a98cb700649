"""Which checkpoint a training keeps, and what ends it.

All of it is read from the Trainer's state, which lies in every checkpoint: a resumed run decides as one that was never
interrupted. (The stock early stopping counts in a callback, and starts to count anew.)
"""

import math
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import SchedulerType

from hf_utils.arguments.training import ClassificationTrainingArguments


def keep_if_best(metrics: Mapping[str, float], args: ClassificationTrainingArguments, state: TrainerState) -> bool:
    """Note the evaluation of this step as the best in `state` if it is; return whether it is.

    Equal scores, which few validation tracks make common, are told apart by log-loss. An undefined score is not kept.
    """
    score, kept = metrics[selecting_score(args)], find_kept(state)
    if math.isnan(score):
        return False
    if kept is not None:
        higher, lower = (score, state.best_metric) if args.greater_is_better else (state.best_metric, score)
        if higher < lower or higher == lower and metrics["eval_log_loss"] >= kept["eval_log_loss"]:
            return False
    state.best_metric, state.best_global_step = score, state.global_step
    return True


def selecting_score(args: ClassificationTrainingArguments) -> str:
    """Return the name of the score that decides, as evaluations have it."""
    return f"eval_{args.metric_for_best_model.removeprefix('eval_')}"


def find_kept(state: TrainerState) -> Mapping[str, float] | None:
    """Return the best evaluation so far; None before the first."""
    return next((entry for entry in _evaluations(state) if entry["step"] == state.best_global_step), None)


def has_ended(args: ClassificationTrainingArguments, state: TrainerState) -> bool:
    """Return whether nothing is left to train: all steps are done, or `--early_stopping_patience` is spent."""
    return state.global_step >= state.max_steps or is_patience_spent(args, state)


def is_patience_spent(args: ClassificationTrainingArguments, state: TrainerState) -> bool:
    """Return whether as many evaluations as `--early_stopping_patience` came after the best one."""
    later = [entry for entry in _evaluations(state) if entry["step"] > (state.best_global_step or 0)]
    return 0 < args.early_stopping_patience <= len(later)


def _evaluations(state: TrainerState) -> list[Mapping[str, float]]:
    """Return the evaluations, one a step: with `--eval_on_start`, a resumed run evaluates its first step once more."""
    first: dict[int, Mapping[str, float]] = {}
    for entry in state.log_history:
        if "eval_log_loss" in entry:
            first.setdefault(entry["step"], entry)
    return list(first.values())


class StopAgain(TrainerCallback):
    """Ends a training that goes on from a checkpoint after which there is nothing to train."""

    def on_train_begin(self, args, state, control, **kwargs):
        if has_ended(args, state):
            control.should_training_stop = True


def describe_training(args: ClassificationTrainingArguments, state: TrainerState) -> dict[str, Any]:
    """Return what ended a training and which of its steps was kept, for results.json; `summary` says it in words."""
    kept, name = find_kept(state), args.metric_for_best_model.removeprefix("eval_")
    if not args.load_best_model_at_end:
        kept, reason = None, "the last step"
    elif kept is None:
        reason = f"the last step, since no evaluation gave {name}"
    else:
        score = f"{name} {state.best_metric:.3f} on validation while training"
        reason = f"step {kept['step']} (epoch {kept['epoch']:.4g}), {score}"
    stopped = state.global_step < state.max_steps and is_patience_spent(args, state)
    drops = _find_drops(args, state)
    done = f"step {state.global_step} of {state.max_steps} (epoch {state.epoch:.4g})"
    sentences = [
        f"Training stopped early at {done}: {args.early_stopping_patience} evaluations in a row were no better."
        if stopped
        else f"Training ended at {done}.",
        *(f"The learning rate fell to {drop['learning_rate']:.2g} after epoch {drop['epoch']:.4g}." for drop in drops),
        f"Kept: {reason}.",
    ]
    if args.average_weights != "none":
        sentences.append(f"Its weights are a running mean: --average_weights {args.average_weights}.")
    return {
        "summary": " ".join(sentences),
        "ended_by": "early_stopping" if stopped else "schedule",
        "steps": state.global_step,
        "planned_steps": state.max_steps,
        "epochs": state.epoch,
        "kept": {
            "step": state.global_step if kept is None else kept["step"],
            "epoch": state.epoch if kept is None else kept["epoch"],
            "chosen_by": None if kept is None else name,
            "score": None if kept is None else state.best_metric,
            "log_loss": None if kept is None else kept["eval_log_loss"],
        },
        "learning_rate_drops": drops,
    }


def _find_drops(args: ClassificationTrainingArguments, state: TrainerState) -> list[dict[str, float]]:
    """Return when reduce_lr_on_plateau lowered the learning rate, and to what."""
    if args.lr_scheduler_type != SchedulerType.REDUCE_ON_PLATEAU:
        return []
    rates = [(entry["epoch"], entry["learning_rate"]) for entry in state.log_history if "learning_rate" in entry]
    return [
        {"epoch": epoch, "learning_rate": later}
        for (epoch, earlier), (_, later) in zip(rates, rates[1:], strict=False)
        if later < earlier
    ]
