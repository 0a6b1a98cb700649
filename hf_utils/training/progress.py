"""What a training shows while it runs: bars on a terminal, and a line for each evaluation."""

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy


class ProgressBars(ProgressCallback):
    """The stock bars, without a printed dictionary per log: `EpochLine` says it. Only for terminals."""

    def on_log(self, args, state, control, **kwargs):
        """Print nothing."""


class EpochLine(TrainerCallback):
    """One line per evaluation while training; where nothing is evaluated, one per epoch."""

    def __init__(self):
        self._loss: float | None = None  # before the first: a model may be evaluated as it is
        self._loss_step, self._is_due = -1, False

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_evaluate:
            control.should_log = True  # so that the loss beside its scores is that of the steps before

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_log = True  # so that every epoch has its loss, however few its steps
        if args.eval_strategy == IntervalStrategy.NO:
            if self._loss_step == state.global_step:
                self._write(args, state)
            else:
                self._is_due = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self._loss, self._loss_step = logs["loss"], state.global_step
            if self._is_due:
                self._write(args, state)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if "eval_accuracy" in (metrics or {}):
            self._write(
                args,
                state,
                f"validation: loss {metrics['eval_loss']:.3f}  accuracy {metrics['eval_accuracy']:.1%}  "
                f"F1 {metrics['eval_f1']:.3f}  ROC-AUC {metrics['eval_roc_auc']:.3f}",
            )

    def _write(self, args, state, scores: str = "") -> None:
        self._is_due = False
        if state.is_world_process_zero:
            steps = f"step {state.global_step:5d}/{state.max_steps}"
            epochs = f"epoch {state.epoch:5.1f}/{state.num_train_epochs}"
            loss = "" if self._loss is None else f"train loss {self._loss:.3f}"
            parts = [part for part in (loss, scores) if part]
            tqdm.write(f"{steps if args.max_steps > 0 else epochs}  {'  |  '.join(parts)}")
