"""A search for options by Optuna: trials train as the script does and are judged on validation; no test is scored.

A trial may change the model, its windows and its features, so each is an experiment of its own with a fresh model.
"""

import gc
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
import torch
from optuna.trial import TrialState
from transformers import TrainerCallback

from hf_utils.arguments.classification import ClassificationTrainingArguments, DataArguments, ModelArguments
from hf_utils.arguments.options import collect_options
from hf_utils.arguments.parsing import build_arguments, merged_config
from hf_utils.arguments.run_options import differing_options
from hf_utils.errors import UserError
from hf_utils.seeding import derive_seed
from hf_utils.training.experiment import make_learner, prepare_experiment
from hf_utils.training.search_results import draw_search, write_trials
from hf_utils.training.search_space import read_space, suggest_options

logger = logging.getLogger(__name__)

CLASSES = (ModelArguments, DataArguments, ClassificationTrainingArguments)
# A trial keeps nothing: its score is the best of its evaluations.
_TRIAL_OPTIONS = {
    "do_train": True,
    "do_eval": False,
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "early_stopping_patience": 0,
    "report_to": "none",
    "push_to_hub": False,
    "disable_tqdm": True,
}
_HEARTBEAT_SECONDS = 60


class ReportTrial(TrainerCallback):
    """Tells a trial its score after every evaluation, and ends training where the trial is not worth going on."""

    def __init__(self, trial: optuna.Trial, metric: str, maximise: bool):
        self._trial, self._metric, self._choose = trial, metric, max if maximise else min
        self._evaluations = 0
        self.best: float | None = None
        self.is_pruned = False

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        score = metrics[self._metric]
        self._evaluations += 1
        self.best = score if self.best is None else self._choose(self.best, score)
        self._trial.report(score, self._evaluations)
        self.is_pruned = self._trial.should_prune()
        if self.is_pruned:
            control.should_training_stop = True


def run_search(arguments: Sequence, space_file: str, num_trials: int) -> Path:
    """Run trials until the study in `--output_dir` has `num_trials`, and return its best.yaml.

    Args:
        arguments: of the script: what every trial has in common.

    Raises:
        UserError: the options leave nothing to compare, the folder holds another search, or no trial came to an end.
    """
    training_args = arguments[-1]
    space = read_space(space_file, collect_options(CLASSES))
    _check_job(training_args)
    output_dir = Path(training_args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    study = _open_study(output_dir, training_args)
    described = {name: repr(distribution) for name, distribution in space.items()}
    _claim(study, merged_config(arguments) | {f"search.{name}": text for name, text in described.items()})
    common = {name: value for part in arguments for name, value in part.given_options.items()}
    common |= {"hub_token": training_args.hub_token, **_TRIAL_OPTIONS}

    def objective(trial: optuna.Trial) -> float:
        # Seeded by the trial, so that neither a restart nor a second process draws the same again.
        seed = derive_seed(training_args.seed, "trial", trial.number) % 2**32
        trial.study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False)
        return _run_trial(trial, common | suggest_options(trial, space), output_dir)

    finished = (TrialState.COMPLETE, TrialState.PRUNED)
    if len(study.get_trials(deepcopy=False, states=finished)) < num_trials:
        enough = optuna.study.MaxTrialsCallback(num_trials, states=finished)
        study.optimize(objective, callbacks=[enough, lambda study, trial: write_trials(study, output_dir)])
    best = write_trials(study, output_dir)
    if best is None:
        reasons = {trial.user_attrs.get("pruned_because", "it was killed") for trial in study.get_trials()}
        raise UserError(f"no trial of the search came to its end: {'; '.join(sorted(reasons))}")
    draw_search(study, output_dir)
    return best


def _check_job(training_args: ClassificationTrainingArguments) -> None:
    if training_args.world_size > 1:
        raise UserError(
            "search runs in one process per device: start the same command several times instead of under a launcher "
            "of several processes; they share --output_dir"
        )
    if not training_args.do_train or training_args.stages or training_args.eval_strategy == "no":
        raise UserError("search trains in one stage and compares evaluations: it needs do_train and an eval_strategy")


def _open_study(output_dir: Path, training_args: ClassificationTrainingArguments) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Trials of a killed process are found by their silence, and others take their place.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the heartbeat; the pin keeps it
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{output_dir / 'search.db'}",
            heartbeat_interval=_HEARTBEAT_SECONDS,
            engine_kwargs={"connect_args": {"timeout": _HEARTBEAT_SECONDS}},
        )
    return optuna.create_study(
        storage=storage,
        study_name="search",
        direction="maximize" if training_args.greater_is_better else "minimize",
        pruner=optuna.pruners.HyperbandPruner(),
        load_if_exists=True,
    )


def _claim(study: optuna.Study, config: dict) -> None:
    """Write down what is searched. Raises UserError if the study is of something else."""
    before = study.user_attrs.get("config")
    if before is None:
        study.set_user_attr("config", config)
    elif different := differing_options(before, config):
        listed = "; ".join(f"{name} was {old} and is {new}" for name, (old, new) in different.items())
        raise UserError(f"output_dir holds another search: {listed}. Choose another folder.")


def _run_trial(trial: optuna.Trial, options: Mapping, output_dir: Path) -> float:
    """Train with `options` and return the best score on validation. Raises TrialPruned where it comes to nothing."""
    reason = None
    with tempfile.TemporaryDirectory(prefix="trial-", dir=output_dir) as folder:
        try:
            arguments = build_arguments(CLASSES, {**options, "output_dir": folder})
            training_args = arguments[-1]
            metric = f"eval_{training_args.metric_for_best_model.removeprefix('eval_')}"
            report = ReportTrial(trial, metric, training_args.greater_is_better)
            learner = make_learner(prepare_experiment(*arguments), arguments[1])
            learner.add_callback(report)
            learner.train()
            reason = "no better than others at this point" if report.is_pruned else None
        except UserError as error:
            reason = str(error)
        except torch.OutOfMemoryError:
            reason = "out of memory"
    learner = None
    gc.collect()
    torch.cuda.empty_cache()
    if reason is not None:
        trial.set_user_attr("pruned_because", reason)
        logger.info("Trial %d ended: %s  %s", trial.number, reason, trial.params)
        raise optuna.TrialPruned(reason)
    logger.info("Trial %d: %s %.4f  %s", trial.number, metric, report.best, trial.params)
    return report.best
