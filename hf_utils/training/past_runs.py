"""What a run has to do with runs before it: the stages it is made of, and the run that trained its checkpoint.

`stages` in a YAML file is a list of options that differ, such as training on generated music first and on real music
afterwards. Every stage but the first starts from the model of the one before; every stage but the last has a folder
inside the run's, and sees neither test set nor Hub.
"""

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_utils.arguments.data import DataArguments
from hf_utils.arguments.model import ModelArguments
from hf_utils.arguments.options import check_value, collect_defaults, collect_options
from hf_utils.arguments.parsing import build_arguments
from hf_utils.arguments.precedence import drop_silenced, override
from hf_utils.arguments.run_arguments import RUN_CLASSES, RunArguments
from hf_utils.config_files import read_config
from hf_utils.errors import UserError
from hf_utils.files import CONFIG_FILE, RECORD_FILE
from hf_utils.hub.run_files import find_run_file

if TYPE_CHECKING:
    from hf_utils.data.split_record import SplitRecord

logger = logging.getLogger(__name__)
_SPLIT_OPTIONS = ("genres", "split_protocol", "split_seed", "num_folds", "fold", "group_segments")
_SOURCE_OPTIONS = ("dataset_name", "dataset_config_name", "dataset_revision", "audio_column_name", "label_column_name")
_WINDOW_OPTIONS = ("window_seconds", "eval_hop_seconds")
# What a stage may not change: whoever tests or tags with the model, and its results and card, take these from the
# options of the whole run.
_OF_THE_WHOLE_RUN = frozenset(
    (*_SPLIT_OPTIONS, *_SOURCE_OPTIONS, *_WINDOW_OPTIONS)
    + ("on_bad_audio", "eval_datasets", "allow_seen_tracks", "corruptions", "mistakes")
    + ("model_name_or_path", "output_dir", "do_train", "do_eval", "do_predict", "push_to_hub", "stages", "seed")
)


def expand_stages(arguments: RunArguments) -> list[RunArguments]:
    """Return the arguments of each stage: `arguments` itself where there are no stages.

    Raises:
        UserError: a stage sets what belongs to the whole run, or contradicts it.
    """
    training_args = arguments.training
    if not training_args.stages or not training_args.do_train:
        return [arguments]
    common = {name: value for name, value in arguments.given.items() if name != "stages"}
    common["hub_token"] = training_args.hub_token
    expanded, before = [], arguments.model.model_name_or_path
    for number, changes in enumerate(training_args.stages, start=1):
        if fixed := [name for name in changes if name in _OF_THE_WHOLE_RUN]:
            raise UserError(
                f"stages[{number - 1}] sets {', '.join(fixed)}, which belongs to the whole run: move it up, beside "
                "stages. What a stage trains on is its train_datasets; the split, and what is evaluated, are the same "
                "in all."
            )
        options = _merge_stage(common, changes, f"stages[{number - 1}]") | {"model_name_or_path": before}
        if number < len(training_args.stages):
            before = str(Path(training_args.output_dir, f"stage-{number}"))
            options |= {"output_dir": before, "do_train": True, "do_eval": False, "mistakes": 0, "push_to_hub": False}
        expanded.append(RunArguments.from_options(options))
    return expanded


def _merge_stage(common: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the options of a stage. Raises UserError for one that it sets and that does nothing in it."""
    options = override(common, changes, f"in {where}")
    ranks = dict.fromkeys(options, 0) | dict.fromkeys(changes, 1)
    try:
        return drop_silenced(options, ranks, collect_defaults(RUN_CLASSES))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def adopt_data_options(arguments: RunArguments) -> RunArguments:
    """Return `arguments` with data options that were not given taken from the run that trained the checkpoint.

    Otherwise the checkpoint would be tested on another split, where its own training tracks are among the test tracks.
    Where nothing is evaluated, or other music, only those of the windows are taken; where the checkpoint is not a
    run's, none. The same music under another name is found later, by its sound (`corpus.decode_corpus`).

    Raises:
        UserError: another split of the same dataset is asked for, or the dataset was a folder on another machine.
    """
    name, given = arguments.model.model_name_or_path, arguments.given
    config = _read_run_config(arguments.model, arguments.training.hub_token)
    windows = {option: config[option] for option in _WINDOW_OPTIONS if option in config}
    if not arguments.training.do_eval:
        return _merge(arguments, windows)
    if not config:
        if read_past_split(arguments) is None:
            message = "%s has neither %s nor %s of a run: its training tracks may be among the test tracks."
        else:
            message = (
                "%s has %s, but no %s of its run: its music is known by its sound, but not which dataset, split and "
                "windows it had. Those of this command count."
            )
        logger.warning(message, name, RECORD_FILE, CONFIG_FILE)
        return arguments
    if not Path(name).is_dir():
        config["dataset_name"] = _find_dataset(config["dataset_name"], given.get("dataset_name"), name)
    if not _is_same_source(given.get("dataset_name", config["dataset_name"]), config["dataset_name"]):
        return _merge(arguments, windows)
    for option in _SPLIT_OPTIONS:
        if option in given and given[option] != config.get(option) and not arguments.data.allow_seen_tracks:
            raise UserError(
                f"{option} is {given[option]}, but {name} was trained on {option}: {config.get(option)} of the same "
                "dataset: its training tracks would be among the test tracks. Leave the option out, or, if you mean "
                "it, add --allow_seen_tracks."
            )
    return _merge(arguments, config)


def _is_same(one: Any, other: Any) -> bool:
    return one == other or isinstance(one, str) and isinstance(other, str) and _is_same_source(one, other)


def _is_same_source(one: str, other: str) -> bool:
    """Whether two names are one, or two spellings of one path that is there."""
    return one == other or (os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other))


def read_past_split(arguments: RunArguments) -> "SplitRecord | None":
    """Return what the weights that the run starts from know of its music; None for those of no run, or an early one.

    Raises:
        UserError: there is a record, but it cannot be read.
    """
    # Here, because it imports datasets, and a prediction does not need them.
    from hf_utils.data.split_record import SplitRecord

    path = _find_file(RECORD_FILE, arguments.model, arguments.training.hub_token)
    return SplitRecord.read(path, arguments.model.model_name_or_path) if path else None


def _merge(arguments: RunArguments, adopted: dict) -> RunArguments:
    if adopted.keys() - arguments.given.keys():
        logger.info("%s", _describe_adopted(adopted, arguments.given, arguments.model.model_name_or_path))
    given = {**adopted, **arguments.given}
    data, _ = build_arguments((DataArguments,), given)
    return dataclasses.replace(arguments, data=data, given=given)


def _describe_adopted(adopted: Mapping, given: Mapping, name: str) -> str:
    """Return what is taken over from the run in `name`, and which of its options have another value here."""
    same, other = [], []
    for noun, options in (("Data", _SOURCE_OPTIONS), ("Split", _SPLIT_OPTIONS), ("Windows", _WINDOW_OPTIONS)):
        known = [option for option in options if option in adopted]
        changed = [option for option in known if not _is_same(given.get(option, adopted[option]), adopted[option])]
        if known and not changed:
            same.append(noun)
        other += [f"{option} is {given[option]}, there {adopted[option]}" for option in changed]
    return "; ".join([f"Taken over from the run in {name}: {', '.join(same).lower() or 'nothing'}", *other])


def _find_dataset(trained_on: str, given: str | None, name: str) -> str:
    """Return what the dataset of a run on the Hub is called here: of a folder's path only the last part was published.

    Raises:
        UserError: it was a folder, and the user does not say where it is.
    """
    if "/" in trained_on:
        return trained_on
    if given is None:
        raise UserError(
            f"{name} was trained on {trained_on}, a folder or file on another machine: give its place here by "
            "--dataset_name, or that of other music. Its split is taken over where the last part is the same."
        )
    return given if Path(given).name == trained_on else trained_on


def _read_run_config(model_args: ModelArguments, token: str | None) -> dict:
    """Return what may be adopted of the options of the run that trained the checkpoint; {} if nothing is known."""
    name, options = model_args.model_name_or_path, collect_options([DataArguments])
    path = _find_file(CONFIG_FILE, model_args, token)
    try:
        config = read_config(path) if path else {}
    except UserError:
        if Path(name).is_dir():
            raise
        return {}  # on the Hub it is somebody else's file of that name
    if not {"dataset_name", "split_protocol"} <= config.keys():  # somebody else's file of that name
        return {}
    try:
        config = {"group_segments": "never", **config}  # as in runs of before that option
        adopted = (*_SOURCE_OPTIONS, *_SPLIT_OPTIONS, *_WINDOW_OPTIONS)
        return {option: check_value(options[option], config[option]) for option in adopted if option in config}
    except ValueError as error:
        raise UserError(f"{CONFIG_FILE} of {name} does not fit this version: a value is {error}") from error


def _find_file(name: str, model_args: ModelArguments, token: str | None) -> Path | None:
    """Return a file that the run left beside the checkpoint; None if there is none."""
    options = {"revision": model_args.model_revision, "cache_dir": model_args.cache_dir, "token": token}
    return find_run_file(model_args.model_name_or_path, name, **options)
