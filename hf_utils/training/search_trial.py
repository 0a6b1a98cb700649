"""One trial of a search: trained as the script does, and judged on validation.

A trial may change the model, its windows and its features, so each has a fresh model.
"""

import dataclasses
import gc
import logging
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.data.clips import label_names
from hf_utils.data.split_record import summarize
from hf_utils.errors import UserError
from hf_utils.training.experiment import Experiment, prepare_experiment
from hf_utils.training.linear_probe import choose_trainer
from hf_utils.training.resume import describe_options

logger = logging.getLogger(__name__)

NO_BETTER = "no better than others at this point"
# A trial keeps nothing: its score is the best of its evaluations.
_TRIAL_OPTIONS = {
    "do_train": True,
    "do_eval": False,
    "mistakes": 0,
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "early_stopping_patience": 0,
    "report_to": "none",
    "push_to_hub": False,
    "disable_tqdm": True,
}

# Is told all scores of a trial so far after every evaluation; says whether the trial is not worth going on.
Report = Callable[[list[float]], bool]
# Is told digests of what a trial reads, by what to call it; raises OtherContent if the search began with another.
Claim = Callable[[Mapping[str, Any]], None]


class OtherContent(UserError):
    """What trials read has changed since the search began: none can be compared with those before."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a trial ended: with the best of its scores, or why it counts as pruned."""

    score: float | None = None
    pruned_because: str | None = None

    def log(self, trial: int | str, chosen: Mapping[str, Any]) -> None:
        """Tell the user."""
        end = f"{self.score:.4f} on validation" if self.pruned_because is None else f"pruned, {self.pruned_because}"
        shown = (
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in chosen.items()
        )
        logger.info("Trial %s: %s  (%s)", trial, end, ", ".join(shown))


class ReportTrial(TrainerCallback):
    """Reports the scores of a trial after every evaluation, and ends training where the answer is to."""

    def __init__(self, report: Report, metric: str):
        self._report, self._metric = report, metric
        self.scores: list[float] = []
        self.is_pruned = False

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.scores.append(metrics[self._metric])
        self.is_pruned = self._report(list(self.scores))
        if self.is_pruned:
            control.should_training_stop = True


class NoRepeats(logging.Filter):
    """Lets a message pass once: every trial has the same split, and would print its table."""

    def __init__(self):
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self._seen
        self._seen.add(message)
        return is_new


def run_trial(options: Mapping[str, Any], folder: Path, report: Report, claim: Claim) -> Outcome:
    """Train with `options` in a temporary folder inside `folder`.

    Options that contradict each other, and a model too large for the device, are outcomes and no errors.

    Raises:
        OtherContent: as `claim`.
    """
    experiment = trainer = None
    with tempfile.TemporaryDirectory(prefix="trial-", dir=folder) as output_dir:
        try:
            arguments = RunArguments.from_options({**options, **_TRIAL_OPTIONS, "output_dir": output_dir})
            training_args = arguments.training
            watch = ReportTrial(report, f"eval_{training_args.metric_for_best_model.removeprefix('eval_')}")
            claim(_digest_files(arguments))
            experiment = prepare_experiment(arguments)
            claim(_digest_music(arguments, experiment))
            window_samples = experiment.lengths.window_samples
            trainer = choose_trainer(experiment.trainer, experiment.corpus.train, window_samples, arguments.data)
            trainer.add_callback(watch)
            trainer.train()
            outcome = judge(watch, maximise=training_args.greater_is_better)
        except OtherContent:
            raise
        except UserError as error:
            outcome = Outcome(pruned_because=str(error))
        except torch.OutOfMemoryError:
            outcome = Outcome(pruned_because="out of memory")
    # The next trial of this process needs the memory.
    del experiment, trainer
    gc.collect()
    torch.cuda.empty_cache()
    return outcome


def _digest_files(arguments: RunArguments) -> dict[str, Any]:
    """Return digests of the weights in a folder and of the transforms, where a trial has them, and what a step is.

    A step has more windows on a machine of several GPUs.
    """
    described, data, training = describe_options(arguments), arguments.data, arguments.training
    batch = f"{training.gradient_accumulation_steps} x {training.per_device_train_batch_size}"
    digests = {f"the windows of a step ({batch} on each device)": described["windows_per_step"]}
    if Path(name := arguments.model.model_name_or_path).is_dir():
        digests[f"the weights in {name}"] = described["model_name_or_path"]
    if data.augmentation is not None:
        noise = f" with {data.noise_folder}" if data.noise_folder else ""
        digests[f"the transforms in {data.augmentation}{noise}"] = described["transforms"]
    return digests


def _digest_music(arguments: RunArguments, experiment: Experiment) -> dict[str, str]:
    """Return digests of the recordings that a trial learns from and is judged on, and of their genres."""
    data, corpus = arguments.data, experiment.corpus
    mix = f"train_datasets {data.train_datasets}, train_filter {data.train_filter}, seed {arguments.training.seed}"
    sets = {f"the training music ({mix})": corpus.train, "the validation music": corpus.evaluations["validation"]}
    return {
        name: summarize(
            f"{digest} {genre}" for digest, genre in zip(clips["sha256"][:], label_names(clips), strict=True)
        )
        for name, clips in sets.items()
    }


def judge(watch: ReportTrial, *, maximise: bool) -> Outcome:
    """Return the outcome of a training that came to its end: its best score, if it has one."""
    if watch.is_pruned:
        return Outcome(pruned_because=NO_BETTER)
    scores = [score for score in watch.scores if not math.isnan(score)]
    if not scores:
        return Outcome(pruned_because="no evaluation gave it a score")
    return Outcome(score=max(scores) if maximise else min(scores))
