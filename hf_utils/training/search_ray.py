"""The trials of a search by Ray Tune: one per GPU at once, each in a process of its own, all on this machine.

Ray's OptunaSearch draws the options and its ASHA scheduler ends trials. Until the trials are in the study, where they
count like Optuna's own, Ray keeps in the output folder what it needs to go on after a kill.
"""

import contextlib
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

# Ray reads these at import.
os.environ.update(
    # Off, Ray's servers listen on the loopback interface alone; on Linux, too, despite its name.
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_USAGE_STATS_ENABLED="0",
    # Paths among the options are of the folder in which the user started the search.
    RAY_CHDIR_TO_TRIAL_DIR="0",
    # An interrupt ends the search here, too, and not only Ray's part of it.
    TUNE_DISABLE_SIGINT_HANDLER="1",
    # The trials are logged below; the newer output names folders that are gone at the end.
    RAY_AIR_NEW_OUTPUT="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
)

import optuna  # noqa: E402
import ray  # noqa: E402
from optuna.trial import TrialState  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.schedulers import ASHAScheduler  # noqa: E402
from ray.tune.search.optuna import OptunaSearch  # noqa: E402

from hf_utils.launch import claim_folder, setup_logging  # noqa: E402
from hf_utils.seeding import derive_seed  # noqa: E402
from hf_utils.training.search import write_trials  # noqa: E402
from hf_utils.training.search_trial import NO_BETTER, Outcome, Search, run_trial  # noqa: E402

# Trials end by themselves; ASHA wants a number of evaluations all the same.
_MAX_EVALUATIONS = 10**6


class _LogTrials(tune.Callback):
    def on_trial_complete(self, iteration, trials, trial, **info):
        _outcome(trial.last_result).log(trial.trial_id, trial.config)


def run_trials(search: Search, num_trials: int) -> None:
    """Run trials until the study has `num_trials` that ended, those of a killed process first.

    Raises:
        UserError: another process runs trials by Ray in the same folder.
    """
    folder = search.output_dir.resolve() / "ray"
    trials = folder / "trials"
    worst = -math.inf if search.training_args.greater_is_better else math.inf
    with claim_folder(str(folder), is_main_process=True), _local_ray(search.training_args.n_gpu) as resources:
        train = tune.with_parameters(_train, common=dict(search.common), folder=trials, worst=worst)
        trainable = tune.with_resources(train, resources)
        while (missing := num_trials - len(search.finished())) > 0:
            tuner = _tuner(search, trainable, trials, missing)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "fail_fast='raise'")  # of processes that stay: Ray is ended below
                warnings.filterwarnings("ignore", "The reported value is ignored")  # of a trial that was killed
                results = tuner.fit()
            _keep(search, results)
            shutil.rmtree(trials)


@contextlib.contextmanager
def _local_ray(num_gpus: int) -> Iterator[dict[str, float]]:
    """Start Ray for this process alone; yield the resources of a trial."""
    ray.init("local", num_gpus=num_gpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    at_once = max(1, num_gpus)
    try:
        yield {"cpu": ray.cluster_resources()["CPU"] // at_once, "gpu": num_gpus // at_once}
    finally:
        ray.shutdown()


def _tuner(search: Search, trainable: Callable, folder: Path, num_trials: int) -> tune.Tuner:
    """Return the tuner that a killed process left in `folder`, else a new one for `num_trials`."""
    if tune.Tuner.can_restore(folder):
        return tune.Tuner.restore(str(folder), trainable, restart_errored=True)
    mode = "max" if search.training_args.greater_is_better else "min"
    before = search.finished()
    seed = derive_seed(search.training_args.seed, "trial", len(before)) % 2**32
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False)
    searcher = OptunaSearch(dict(search.space), metric="score", mode=mode, sampler=sampler)
    for trial in before:
        pruned, scores = trial.state == TrialState.PRUNED, list(trial.intermediate_values.values())
        searcher.add_evaluated_point(trial.params, trial.value, pruned=pruned, intermediate_values=scores)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric="score",
            mode=mode,
            num_samples=num_trials,
            search_alg=searcher,
            scheduler=ASHAScheduler(time_attr="evaluation", max_t=_MAX_EVALUATIONS),
            max_concurrent_trials=max(1, search.training_args.n_gpu),
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=tune.FailureConfig(fail_fast="raise"),
            callbacks=[_LogTrials()],
            verbose=0,
        ),
    )


def _train(chosen: Mapping[str, Any], common: Mapping[str, Any], folder: Path, worst: float) -> dict[str, Any]:
    """Run a trial in a process of Ray's; the last report is returned."""
    setup_logging(is_main_process=False)
    told = {"score": worst, "evaluation": 0, "scores": []}

    def report(scores: list[float]) -> bool:
        told.update(score=scores[-1], evaluation=len(scores), scores=scores)
        tune.report(dict(told))
        return False  # Ray ends the process instead

    outcome = run_trial({**common, **chosen}, folder, report)
    if outcome.score is not None:
        told["score"] = outcome.score
    return {**told, "ended": True, "pruned_because": outcome.pruned_because}


def _outcome(reported: Mapping[str, Any]) -> Outcome:
    if not reported.get("ended"):
        return Outcome(pruned_because=NO_BETTER)
    reason = reported["pruned_because"]
    return Outcome(score=reported["score"] if reason is None else None, pruned_because=reason)


def _keep(search: Search, results: tune.ResultGrid) -> None:
    """Add the trials to the study, but for those that a killed process added. Raises the first error of a trial."""
    if results.errors:
        raise results.errors[0]
    kept = {trial.user_attrs.get("ray_trial") for trial in search.finished()}
    for result in sorted(results, key=lambda result: result.metrics["timestamp"]):
        reported, name = result.metrics, result.metrics["trial_id"]
        if name in kept:
            continue
        outcome, scores = _outcome(reported), reported["scores"]
        pruned = outcome.pruned_because is not None
        trial = optuna.trial.create_trial(
            state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
            # As in Optuna, a pruned trial has the value of its last report, if it made one.
            value=next(reversed(scores), None) if pruned else outcome.score,
            params=result.config,
            distributions=dict(search.space),
            user_attrs={"ray_trial": name} | ({"pruned_because": outcome.pruned_because} if pruned else {}),
            intermediate_values=dict(enumerate(scores, start=1)),
        )
        search.study.add_trial(trial)
    write_trials(search.study, search.output_dir)
