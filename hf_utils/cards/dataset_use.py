"""The command that trains or tests on a dataset made by this project, as its card prints it."""

import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from hf_utils.data.mixing import REAL
from hf_utils.disclosure import show_source

# A recipe of configs/ and the run that it makes; any other does as well.
_RECIPE, _RUN = "configs/ast.yaml", "runs/ast"
# Stands for real clips that only the user knows.
UNKNOWN_CLIPS = "path/to/genres"


class Use(NamedTuple):
    """What a dataset is for, in words, and the command."""

    purpose: str
    command: str


def use_for_training(name: str, source: Mapping[str, Any], *, with_real: bool) -> Use:
    """Return how to train on the dataset.

    Args:
        name: a repository's id, or a folder.
        source: options of `SourceArguments` that give the real clips and their split.
        with_real: whether they are trained on as well, since the dataset does not hold them itself.
    """
    words = ["accelerate", "launch", "run_classification.py", _RECIPE]
    clips = source.get("dataset_name", "")
    if show_source(clips) != clips:  # a folder whose place is nobody's business
        source = {**source, "dataset_name": f"path/to/{show_source(clips)}"}
    for option, value in source.items():
        words += [f"--{option}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    words += ["--train_datasets", *([REAL] if with_real else []), name]
    clips = source.get("dataset_name", "")
    unknown = f", where `{clips}` stands for the folder of the real clips" if clips.startswith("path/to/") else ""
    return Use(f"To train on it, here with the recipe `{_RECIPE}`{unknown}", _join(words, name))


def use_for_evaluation(name: str) -> Use:
    """Return how to test a trained model on the dataset: one score over all its clips."""
    words = ["python", "run_classification.py", "--model_name_or_path", _RUN, "--do_eval"]
    return Use(
        f"To test on it, where `{_RUN}` stands for a run on the same dataset and split (its training tracks are "
        "refused as test tracks)",
        _join([*words, "--eval_datasets", f"copies={name}"], name),
    )


def _join(words: list[str], name: str) -> str:
    return shlex.join([*words, "--output_dir", f"{_RUN}-{PurePosixPath(name).name}"])
