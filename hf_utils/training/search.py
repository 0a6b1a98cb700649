"""A search for options: trials train as the script does and are judged on validation; no test is scored.

What it chooses from is a YAML file of options, each with a range or a list of choices:

    learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
    num_mel_bins: {low: 64, high: 128, step: 32}
    spectrogram: [mel, stft]

Optuna keeps the trials in a database: a file in the output folder, or `--search_storage`. Any number of processes and
machines may add trials to it. What a search leaves in the output folder: its best options as a YAML overlay, a table
of its trials, and pictures. (Optuna's word for a search is study, which is another thing here.)
"""

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from hf_utils.arguments.options import check_value, collect_defaults, collect_options, complete_classes
from hf_utils.arguments.precedence import drop_silenced, override
from hf_utils.arguments.replaced_options import explain_unknown
from hf_utils.arguments.run_arguments import RUN_CLASSES, RunArguments
from hf_utils.arguments.run_options import differing_options
from hf_utils.arguments.search_options import SearchArguments
from hf_utils.arguments.training import ClassificationTrainingArguments
from hf_utils.config_files import read_config
from hf_utils.errors import UserError
from hf_utils.files import write_atomically, write_csv
from hf_utils.results.plots import encode_png
from hf_utils.seeding import derive_seed
from hf_utils.training.search_trial import NoRepeats, OtherContent, run_trial

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_TABLES_SECONDS = 5  # what another process may need to make all tables
_HEARTBEAT_SECONDS = 60
_CONNECT_SECONDS = 30
# How long a driver may wait, for the lock of a file or for a server, by the name of its own option.
_WAITS = {
    "pysqlite": {"timeout": _HEARTBEAT_SECONDS},
    "psycopg": {"connect_timeout": _CONNECT_SECONDS},
    "psycopg2": {"connect_timeout": _CONNECT_SECONDS},
    "pymysql": {"connect_timeout": _CONNECT_SECONDS},
}


def run_search(arguments: RunArguments, search_args: SearchArguments) -> Path:
    """Run trials until the search has `--num_trials`, those of other processes included; return its best.yaml.

    Args:
        arguments: what every trial has in common.

    Raises:
        UserError: the options leave nothing to compare, the storage cannot be used or holds another search, files have
            changed since it began, or no trial came to an end.
    """
    training_args = arguments.training
    if arguments.model.ensemble_with:
        raise UserError("ensemble_with works with --do_eval and --do_predict: leave it or --search out")
    space = read_space(search_args.search, collect_options(complete_classes(RUN_CLASSES)))
    _check_job(training_args)
    _check_use(space, arguments.config())
    output_dir = Path(training_args.output_dir)
    url, name = _locate(search_args.search_storage, output_dir)
    with _explain_storage_errors(url):
        output_dir.mkdir(parents=True, exist_ok=True)
        search = _open_search(url, name, maximise=training_args.greater_is_better)
        described = {f"search.{name}": repr(distribution) for name, distribution in space.items()}
        _claim(search, arguments.config() | described)
        if len(search.get_trials(deepcopy=False, states=_FINISHED)) < search_args.num_trials:
            _run_trials(search, space, arguments, search_args.num_trials)
        best = write_trials(search, output_dir)
        if best is None:
            reasons = {trial.user_attrs.get("pruned_because", "it was killed") for trial in search.get_trials()}
            raise UserError(f"no trial of the search came to its end: {'; '.join(sorted(reasons))}")
        draw_search(search, output_dir)
    return best


def _check_job(training_args: ClassificationTrainingArguments) -> None:
    if training_args.world_size > 1:
        raise UserError(
            "search runs in one process per device: start the same command several times instead of under a launcher "
            "of several processes; they share --output_dir, or, on several machines, --search_storage"
        )
    if not training_args.do_train or training_args.stages or training_args.eval_strategy == "no":
        raise UserError("search trains in one stage and compares evaluations: it needs do_train and an eval_strategy")


def _check_use(space: Mapping[str, BaseDistribution], config: Mapping[str, Any]) -> None:
    """Raise UserError for a searched option that does nothing, because of one that is the same in all trials."""
    values = {**config, **dict.fromkeys(space, "searched")}
    drop_silenced(values, dict.fromkeys(values, 0), collect_defaults(RUN_CLASSES))


def _locate(storage: str | None, output_dir: Path) -> tuple[sqlalchemy.URL, str]:
    """Return the database of a search, and the search's name in it: that of the folder, where others may be there too.

    Raises:
        UserError: `storage` is no URL of a database, or its driver is not installed. The URL may hold a password, and
            is shown without it.
    """
    if storage is None:
        return sqlalchemy.URL.create("sqlite", database=str(output_dir / "search.db")), "search"
    try:
        url = sqlalchemy.make_url(storage)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise UserError(
            "search_storage is no URL of a database: expected one such as postgresql://user@host/database"
        ) from None
    try:
        url.get_dialect().import_dbapi()
    except sqlalchemy.exc.NoSuchModuleError:
        raise UserError(
            f"search_storage is {_show_url(url)}, but SQLAlchemy knows no {url.drivername}: expected postgresql, "
            "mysql+pymysql, sqlite ..."
        ) from None
    except ModuleNotFoundError as error:
        package = "psycopg[binary]" if error.name == "psycopg" else error.name
        raise UserError(
            f"search_storage is {_show_url(url)}, whose driver is not installed: pip install '{package}'"
        ) from None
    return url, output_dir.resolve().name


def _show_url(url: sqlalchemy.URL) -> str:
    """Return the URL without its password and its query, which may hold one too."""
    return url.set(query={}).render_as_string(hide_password=True)


@contextlib.contextmanager
def _explain_storage_errors(url: sqlalchemy.URL) -> Iterator[None]:
    """Turn what a database refuses, or its silence, into a message."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        while error.__cause__ is not None:  # what the driver said
            error = error.__cause__
        reason = " ".join(str(error).split())
        for secret in filter(None, (url.password, url.query.get("password"))):
            reason = reason.replace(str(secret), "***")
        raise UserError(
            f"the search cannot be kept in {_show_url(url)}: {reason}. Mend that; then the same command continues."
        ) from None


def _open_search(url: sqlalchemy.URL, name: str, *, maximise: bool) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options = {"connect_args": _WAITS.get(url.get_dialect().driver, {})}
    if url.get_backend_name() != "sqlite":
        options["pool_pre_ping"] = True  # a trial may take longer than an idle connection lasts
    # Trials of a killed process are found by their silence, and others take their place.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the heartbeat; the pin keeps it
        storage = _open_storage(url, options)
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize" if maximise else "minimize",
        pruner=optuna.pruners.HyperbandPruner(),
        load_if_exists=True,
    )


def _open_storage(url: sqlalchemy.URL, engine_options: dict) -> optuna.storages.RDBStorage:
    """Open the database, and make its tables if it has none."""
    for is_last in (False, False, True):
        try:
            return optuna.storages.RDBStorage(
                # Optuna fills in names in braces.
                url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}"),
                heartbeat_interval=_HEARTBEAT_SECONDS,
                engine_kwargs=engine_options,
            )
        except sqlalchemy.exc.SQLAlchemyError as error:
            # Another process has made the same table since Optuna looked. Then there will be nothing left to make.
            if is_last or "already exists" not in str(error):
                raise
            time.sleep(_TABLES_SECONDS)


def _claim(search: optuna.Study, config: dict) -> None:
    """Write down what is searched. Raises UserError if the storage holds a search of something else."""
    if "config" not in search.user_attrs:
        search.set_user_attr("config", config)
    if different := differing_options(search.user_attrs["config"], config):
        listed = "; ".join(f"{name} was {old} and is {new}" for name, (old, new) in different.items())
        raise UserError(f"output_dir is the folder of another search: {listed}. Choose another one.")


def _claim_content(search: optuna.Study, digests: Mapping[str, Any]) -> None:
    """Write down what a trial reads: a path stays the same whatever is in it.

    Raises:
        OtherContent: an earlier trial read something else under the same name.
    """
    before = search.user_attrs.get("content", {})
    if changed := [name for name, digest in digests.items() if before.get(name, digest) != digest]:
        raise OtherContent(
            "output_dir is the folder of a search, and since it began there is a change in "
            f"{' and in '.join(changed)}: its trials and new ones cannot be compared. Bring back what was there, or "
            "choose another output_dir."
        )
    if digests.keys() - before.keys():
        search.set_user_attr("content", {**before, **digests})


def _run_trials(
    search: optuna.Study, space: Mapping[str, BaseDistribution], arguments: RunArguments, num_trials: int
) -> None:
    """Run trials, one after the other, until the search has `num_trials` that ended."""
    training_args, output_dir = arguments.training, Path(arguments.training.output_dir)
    common = {**arguments.given, "hub_token": training_args.hub_token}

    def objective(trial: Trial) -> float:
        # Seeded by the trial, so that neither a restart nor another process draws the same again.
        seed = derive_seed(training_args.seed, "trial", trial.number) % 2**32
        trial.study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False)
        chosen = suggest_options(trial, space)

        def report(scores: list[float]) -> bool:
            trial.report(scores[-1], len(scores))
            return trial.should_prune()

        outcome = run_trial(
            override(common, chosen, "in the search"), output_dir, report, lambda found: _claim_content(search, found)
        )
        outcome.log(trial.number, chosen)
        if outcome.pruned_because is not None:
            trial.set_user_attr("pruned_because", outcome.pruned_because)
            raise optuna.TrialPruned(outcome.pruned_because)
        return outcome.score

    enough = optuna.study.MaxTrialsCallback(num_trials, states=_FINISHED)
    once, messages_of_runs = NoRepeats(), logging.getLogger("hf_utils.training.experiment")
    messages_of_runs.addFilter(once)
    try:
        search.optimize(objective, callbacks=[enough, lambda search, trial: write_trials(search, output_dir)])
    finally:
        messages_of_runs.removeFilter(once)


# With any of these, trials would be scored on other tracks or in other ways, or would not be trials.
_FIXED = frozenset(
    """
    dataset_name dataset_config_name dataset_revision audio_column_name label_column_name genres on_bad_audio
    split_protocol split_seed num_folds fold group_segments eval_datasets allow_seen_tracks
    metric_for_best_model greater_is_better eval_strategy eval_steps output_dir overwrite resume_from_checkpoint stages
    do_train do_eval do_predict predict_path mistakes push_to_hub hub_token
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
    if {"num_train_epochs", "max_steps"} <= space.keys():
        problems.append(f"{path}: num_train_epochs and max_steps both say how long to train: keep one of them")
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


def write_trials(search: optuna.Study, output_dir: Path) -> Path | None:
    """Write trials.csv, and best.yaml once a trial has come to its end; return the path of the latter, or None."""
    trials = search.get_trials(deepcopy=False)
    names = sorted({name for trial in trials for name in trial.params})
    rows = [
        [t.number, t.state.name.lower(), t.value, t.user_attrs.get("pruned_because"), *map(t.params.get, names)]
        for t in trials
    ]
    write_csv(output_dir / "trials.csv", ["trial", "state", "score", "pruned_because", *names], rows)
    complete = _complete(search)
    if not complete:
        return None
    path, best = output_dir / "best.yaml", search.best_trial
    metric = search.user_attrs["config"]["metric_for_best_model"]
    comment = (
        f"# The best of {len(trials)} trials, {len(complete)} of which came to their end: {metric} {best.value:.4f} "
        "on validation.\n# The best of many is high by chance, too: a new run, on its test set, says how good it is.\n"
    )
    write_atomically(path, comment + yaml.safe_dump(best.params, sort_keys=False))
    return path


def draw_search(search: optuna.Study, output_dir: Path) -> None:
    """Write search_history.png, and search_importances.png where scores differ."""
    write_atomically(output_dir / "search_history.png", encode_png(history_figure(search)))
    if len({trial.value for trial in _complete(search)}) > 1:
        importances = optuna.importance.get_param_importances(search)
        write_atomically(output_dir / "search_importances.png", encode_png(importance_figure(importances)))


def _complete(search: optuna.Study) -> list:
    return search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def history_figure(search: optuna.Study):
    """Return a Figure: the score of every trial in the order of the trials, and the best so far.

    Pruned trials stand at the last score that they reported.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="compressed", dpi=120)
    axes = figure.add_subplot()
    trials = search.get_trials(deepcopy=False)
    for state, marker, label in ((TrialState.COMPLETE, "o", "complete"), (TrialState.PRUNED, "x", "pruned")):
        chosen = [trial for trial in trials if trial.state == state]
        scores = [t.value if state == TrialState.COMPLETE else _last_report(t) for t in chosen]
        axes.scatter([trial.number for trial in chosen], scores, marker=marker, label=label)
    complete = _complete(search)
    best = np.maximum if search.direction == StudyDirection.MAXIMIZE else np.minimum
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
