"""A search for options: trials train as the script does and are judged on validation; no test is scored.

The trials are kept in one Optuna study in the output folder, whichever back end ran them.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna

from hf_utils.arguments.options import collect_options
from hf_utils.arguments.parsing import merged_config
from hf_utils.arguments.run_options import differing_options
from hf_utils.arguments.training import ClassificationTrainingArguments, SearchArguments
from hf_utils.errors import UserError
from hf_utils.training.search_results import draw_search, write_trials
from hf_utils.training.search_space import read_space
from hf_utils.training.search_trial import CLASSES, Search

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
