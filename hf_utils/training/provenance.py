"""What a model is made from: the trainings before this one, and the licences that its data and checkpoint state."""

import json
from collections.abc import Mapping
from typing import Any

from hf_utils.arguments.model import ModelArguments
from hf_utils.arguments.run_arguments import RunArguments
from hf_utils.data.mixing import REAL, parse_mix
from hf_utils.errors import UserError
from hf_utils.files import RESULTS_FILE
from hf_utils.hub.licenses import read_licenses
from hf_utils.hub.run_files import find_run_file


def find_earlier_trainings(arguments: RunArguments) -> list[dict[str, Any]]:
    """Return what the checkpoint learned from before this run, the first training first; none if no run made it.

    Each has the `checkpoint` that came out, the `dataset` of the run, `train` with its tracks and their origins, the
    clips of every one of the `sources` of its training mix, and the `licenses` they state. A stage counts as a run.

    Raises:
        UserError: the results of that run are damaged.
    """
    model_args = arguments.model
    results = _read_results(model_args, arguments.training.hub_token)
    data = results.get("data")
    if not isinstance(data, Mapping) or not isinstance(data.get("train_mix"), Mapping):
        return []  # somebody else's results, or those of a run that trained nothing
    return [
        *results.get("earlier", []),
        {
            "checkpoint": model_args.model_name_or_path,
            "dataset": data["dataset"],
            "train": data["splits"]["train"],
            "sources": data["train_mix"]["sources"],
            "licenses": results.get("licenses", {}),
        },
    ]


def find_licenses(arguments: RunArguments) -> dict[str, list[str]]:
    """Return the licences that the cards of the training mix's datasets, and of the checkpoint, state; by name."""
    data_args, model_args, token = arguments.data, arguments.model, arguments.training.hub_token
    mix = [name for name, _ in parse_mix(data_args.train_datasets)]
    found = {}
    for name in dict.fromkeys(data_args.dataset_name if name == REAL else name for name in mix):
        revision = data_args.dataset_revision if name == data_args.dataset_name else None
        found[name] = read_licenses(name, "dataset", revision=revision, token=token)
    checkpoint = model_args.model_name_or_path
    found[checkpoint] = read_licenses(
        checkpoint, "model", revision=model_args.model_revision, cache_dir=model_args.cache_dir, token=token
    )
    return {name: ids for name, ids in found.items() if ids}


def _read_results(model_args: ModelArguments, token: str | None) -> Mapping[str, Any]:
    """Return the results of the run that made the checkpoint; {} without them. Raises UserError for a damaged file."""
    path = find_run_file(
        model_args.model_name_or_path,
        RESULTS_FILE,
        revision=model_args.model_revision,
        cache_dir=model_args.cache_dir,
        token=token,
    )
    if path is None:
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}), and it says what the checkpoint was trained on before. "
            "Copy the whole run again, or, if there is no other copy, delete the file: the card then tells nothing of "
            "that training."
        ) from error
    return results if isinstance(results, Mapping) else {}
