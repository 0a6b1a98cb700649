"""What a checkpoint's own run says: on which data and split it was trained, and what has been finished."""

import logging
from pathlib import Path

from hf_utils.arguments.classification import DataArguments
from hf_utils.arguments.config_files import read_config
from hf_utils.arguments.parsing import build_arguments
from hf_utils.errors import UserError

logger = logging.getLogger(__name__)

_SPLIT_OPTIONS = ("genres", "split_protocol", "split_seed", "num_folds", "fold")
_SOURCE_OPTIONS = ("dataset_name", "dataset_config_name", "dataset_revision", "audio_column_name", "label_column_name")
_WINDOW_OPTIONS = ("window_seconds", "eval_hop_seconds")


def adopt_data_options(data_args: DataArguments, model_name_or_path: str) -> DataArguments:
    """Return `data_args` with what was not given taken from the run that trained the checkpoint, if it is a run's.

    Otherwise the checkpoint would be tested on another split, where its own training tracks are among the test tracks.

    Raises:
        UserError: another split of the same dataset is asked for.
    """
    path = Path(model_name_or_path, "config.yaml")
    if not path.is_file():
        return data_args
    config, given = read_config(str(path)), data_args.given_options
    trained_on = {name: config[name] for name in (*_SOURCE_OPTIONS, *_SPLIT_OPTIONS) if name in config}
    if given.get("dataset_name", trained_on.get("dataset_name")) != trained_on.get("dataset_name"):
        return data_args
    for name in _SPLIT_OPTIONS:
        if name in given and given[name] != trained_on.get(name):
            raise UserError(
                f"{name} is {given[name]}, but {model_name_or_path} was trained on {name}: {trained_on.get(name)} of "
                "the same dataset: its training tracks would be among the test tracks. Leave the option out."
            )
    adopted = {name: config[name] for name in (*trained_on, *_WINDOW_OPTIONS) if name in config and name not in given}
    logger.info("Data, split and windows are those of the run in %s", model_name_or_path)
    return build_arguments((DataArguments,), {**adopted, **given})[0]
