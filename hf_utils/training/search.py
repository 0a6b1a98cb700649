"""A search for options: trials train as the script does and are judged on validation; no test is scored.

The trials are kept in one Optuna study in the output folder, whichever back end ran them.

What a search chooses from: a YAML file of options, each with a range or a list of choices.

learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
num_mel_bins: {low: 64, high: 128, step: 32}
spectrogram: [mel, stft]

What a search leaves: its best options as a YAML overlay, a table of its trials, and pictures.

Figures are made without pyplot, as in `plots`.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from hf_utils.arguments.options import check_value, collect_options
from hf_utils.arguments.parsing import explain_unknown, merged_config
from hf_utils.arguments.run_options import differing_options
from hf_utils.arguments.training import ClassificationTrainingArguments, SearchArguments
from hf_utils.config_files import read_config
from hf_utils.errors import UserError
from hf_utils.files import write_atomically, write_csv
from hf_utils.results.plots import encode_png
from hf_utils.training.search_trial import CLASSES, Search

# With any of these, trials would be scored on other tracks or in other ways, or would not be trials.
_FIXED = frozenset(
    """
    dataset_name dataset_config_name dataset_revision audio_column_name label_column_name genres on_bad_audio
    split_protocol split_seed num_folds fold group_segments eval_datasets metric_for_best_model greater_is_better
    eval_strategy eval_steps output_dir overwrite resume_from_checkpoint stages
    do_train do_eval do_predict predict_path push_to_hub hub_token
    """.split()
)
_RANGE_KEYS = {"low", "high", "log", "step"}


def read_space(path: str, options: Mapping) -> dict[str, BaseDistribution]:
    """Return {option: distribution} of a YAML file; `options` is from `collect_options`.

    Raises:
        UserError: all mistakes at once, each with what to write instead.
    """
    space, problems = {}, []
    for name, given in read_config(path).items():
        try:
            if name not in options:
                raise ValueError(explain_unknown(name, options, name))
            if name in _FIXED:
                raise ValueError(
                    f"{name} cannot be searched: trials must differ in nothing else than what is compared"
                )
            space[name] = _read_distribution(given, options[name], name)
        except ValueError as error:
            problems.append(f"{path}: {error}")
    if problems:
        raise UserError("\n".join(problems))
    return space


def _read_distribution(given: Any, field, name: str) -> BaseDistribution:
    if isinstance(given, list) and given:
        if any(isinstance(choice, (list, dict)) for choice in given):
            raise ValueError(f"{name} has a list among its choices, expected texts, numbers, true, false or null")
        return CategoricalDistribution([_check(field, choice, name) for choice in given])
    if not isinstance(given, dict) or not {"low", "high"} <= given.keys() <= _RANGE_KEYS:
        raise ValueError(f"{name} is {given!r}, expected a list of choices or {{low: ..., high: ..., log: true}}")
    low, high = (_check(field, given[key], name) for key in ("low", "high"))
    numbers = [type(bound) for bound in (low, high)]
    if numbers not in ([int, int], [float, float]):
        raise ValueError(f"{name} has a range, but is no number: give a list of choices")
    if numbers[0] is int:
        return IntDistribution(low, high, log=given.get("log", False), step=given.get("step", 1))
    return FloatDistribution(low, high, log=given.get("log", False), step=given.get("step"))


def _check(field, value: Any, name: str) -> Any:
    try:
        return check_value(field, value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def suggest_options(trial: Trial, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return the options of a trial."""
    chosen = {}
    for name, part in space.items():
        if isinstance(part, CategoricalDistribution):
            chosen[name] = trial.suggest_categorical(name, part.choices)
        elif isinstance(part, IntDistribution):
            chosen[name] = trial.suggest_int(name, part.low, part.high, log=part.log, step=part.step)
        else:
            chosen[name] = trial.suggest_float(name, part.low, part.high, log=part.log, step=part.step)
    return chosen


def write_trials(study: optuna.Study, output_dir: Path) -> Path | None:
    """Write trials.csv, and best.yaml once a trial has come to its end; return the path of the latter, or None."""
    trials = study.get_trials(deepcopy=False)
    names = sorted({name for trial in trials for name in trial.params})
    rows = [
        [t.number, t.state.name.lower(), t.value, t.user_attrs.get("pruned_because"), *map(t.params.get, names)]
        for t in trials
    ]
    write_csv(output_dir / "trials.csv", ["trial", "state", "score", "pruned_because", *names], rows)
    complete = _complete(study)
    if not complete:
        return None
    path, best, metric = (
        output_dir / "best.yaml",
        study.best_trial,
        study.user_attrs["config"]["metric_for_best_model"],
    )
    comment = (
        f"# The best of {len(trials)} trials, {len(complete)} of which came to their end: {metric} {best.value:.4f} "
        "on validation.\n# The best of many is high by chance, too: a new run, on its test set, says how good it is.\n"
    )
    write_atomically(path, comment + yaml.safe_dump(best.params, sort_keys=False))
    return path


def draw_search(study: optuna.Study, output_dir: Path) -> None:
    """Write search_history.png, and search_importances.png where scores differ."""
    write_atomically(output_dir / "search_history.png", encode_png(history_figure(study)))
    if len({trial.value for trial in _complete(study)}) > 1:
        importances = optuna.importance.get_param_importances(study)
        write_atomically(output_dir / "search_importances.png", encode_png(importance_figure(importances)))


def _complete(study: optuna.Study) -> list:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def history_figure(study: optuna.Study):
    """Return a Figure: the score of every trial in the order of the trials, and the best so far.

    Pruned trials stand at the last score that they reported.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="compressed", dpi=120)
    axes = figure.add_subplot()
    trials = study.get_trials(deepcopy=False)
    for state, marker, label in ((TrialState.COMPLETE, "o", "complete"), (TrialState.PRUNED, "x", "pruned")):
        chosen = [trial for trial in trials if trial.state == state]
        scores = [t.value if state == TrialState.COMPLETE else _last_report(t) for t in chosen]
        axes.scatter([trial.number for trial in chosen], scores, marker=marker, label=label)
    complete = _complete(study)
    best = np.maximum if study.direction == StudyDirection.MAXIMIZE else np.minimum
    so_far = best.accumulate([trial.value for trial in complete])
    axes.step([trial.number for trial in complete], so_far, where="post", color="black", label="best so far")
    axes.set(xlabel="trial", ylabel="score on validation")
    axes.legend()
    return figure


def _last_report(trial) -> float:
    return trial.intermediate_values[trial.last_step] if trial.last_step is not None else np.nan


def importance_figure(importances: Mapping[str, float]):
    """Return a Figure: the share of the differences between scores that each option explains."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1 + 0.4 * len(importances)), layout="compressed", dpi=120)
    axes = figure.add_subplot()
    names = list(importances)[::-1]
    axes.barh(names, [importances[name] for name in names])
    axes.set(xlabel="importance", xlim=(0, 1))
    return figure


_HEARTBEAT_SECONDS = 60


def run_search(arguments: Sequence, search_args: SearchArguments) -> Path:
    """Run trials until the study in `--output_dir` has `--num_trials`, and return its best.yaml.

    Args:
        arguments: of the script: what every trial has in common.

    Raises:
        UserError: the options leave nothing to compare, the folder holds another search, or no trial came to an end.
    """
    training_args = arguments[-1]
    space = read_space(search_args.search, collect_options(CLASSES))
    _check_job(training_args)
    output_dir = Path(training_args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    study = _open_study(output_dir, training_args)
    described = {name: repr(distribution) for name, distribution in space.items()}
    _claim(study, merged_config(arguments) | {f"search.{name}": text for name, text in described.items()})
    common = {name: value for part in arguments for name, value in part.given_options.items()}
    search = Search(study, space, common | {"hub_token": training_args.hub_token}, training_args)
    if len(search.finished()) < search_args.num_trials:
        if search_args.search_backend == "ray":
            from hf_utils.training.search_ray import run_trials  # here, because Ray is not in requirements.txt
        else:
            from hf_utils.training.search_optuna import run_trials
        run_trials(search, search_args.num_trials)
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
            "of several processes; they share --output_dir. Or --search_backend ray, which starts a process per trial"
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
