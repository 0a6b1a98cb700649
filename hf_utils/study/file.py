"""The study file: models x training arms x seeds (x folds), each a list of configuration files and options.

output_dir: runs/gtzan
models:
  ast: configs/ast.yaml
  resnet: {configs: configs/recipes/image.yaml, options: {model_name_or_path: timm/resnet34.a1_in1k}}
arms:
  clean: configs/train/clean.yaml
  noisy: configs/train/noisy.yaml
seeds: [1, 2, 3, 4, 5]
folds: [0, 1, 2]                 # only with split_protocol: artist_folds
options: {max_steps: 500}        # for every run; a model's and then an arm's options win
seed_options:                    # what the runs of a seed are also evaluated on; they win over the above
  1: {corruptions: configs/corruptions.yaml}
prepare:                         # before the first run, unless this very command is done
  - {folder: data/noisy, command: python augment_dataset.py configs/augment/awgn_10db.yaml --output_dir data/noisy}
launch: [--num_processes, 2]     # options of `accelerate launch`
"""

import dataclasses
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_utils.config_files import read_config
from hf_utils.errors import UserError

_KEYS = ("output_dir", "models", "arms", "seeds", "folds", "options", "seed_options", "prepare", "launch")
_REQUIRED = ("output_dir", "models", "arms", "seeds")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# What may differ between seeds: nothing that is trained, or seeds could not be averaged.
_PER_SEED = ("corruptions", "eval_datasets")
# The study gives each run its own.
_SET_BY_STUDY = ("output_dir", "run_name", "seed", "fold", "resume_from_checkpoint", "overwrite")


@dataclasses.dataclass(frozen=True)
class Part:
    """A model or an arm: configuration files, and options which win over them."""

    name: str
    configs: tuple[str, ...]
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Preparation:
    """A command that makes a dataset folder."""

    folder: Path
    command: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Study:
    """What a study file says."""

    output_dir: Path
    models: tuple[Part, ...]
    arms: tuple[Part, ...]
    seeds: tuple[int, ...]
    folds: tuple[int | None, ...]
    options: Mapping[str, Any]
    seed_options: Mapping[int, Mapping[str, Any]]
    prepare: tuple[Preparation, ...]
    launch: tuple[str, ...]


def read_study(path: str | Path) -> Study:
    """Return the study in a YAML file. Raises UserError naming the key and what it should hold."""
    config = read_config(path)
    if unknown := sorted(map(str, config.keys() - set(_KEYS))):
        raise UserError(f"{path}: {', '.join(unknown)} is no key of a study; those are {', '.join(_KEYS)}")
    if missing := [key for key in _REQUIRED if not config.get(key)]:
        raise UserError(f"{path}: a study needs {', '.join(missing)}")
    try:
        return Study(
            output_dir=Path(_text(config["output_dir"], "output_dir")),
            models=_read_parts(config["models"], "models"),
            arms=_read_parts(config["arms"], "arms"),
            seeds=_read_numbers(config["seeds"], "seeds"),
            folds=_read_numbers(config["folds"], "folds") if config.get("folds") is not None else (None,),
            options=_read_options(config.get("options"), "options"),
            seed_options=_read_seed_options(config.get("seed_options"), config["seeds"]),
            prepare=tuple(_read_preparation(item) for item in config.get("prepare") or ()),
            launch=tuple(map(str, _list(config.get("launch") or [], "launch"))),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def option_flags(options: Mapping[str, Any]) -> list[str]:
    """Return options as words of a command line."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(str(item).lower() if isinstance(item, bool) else str(item) for item in values)]
    return words


def _read_parts(parts: Any, key: str) -> tuple[Part, ...]:
    if not isinstance(parts, dict):
        raise UserError(f"{key} is {parts!r}, expected lines of the form `name: configs/file.yaml`")
    for name in parts:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{key}: {name!r} cannot name a folder; use letters, digits, dots, _ and -")
    return tuple(_read_part(name, value, f"{key}: {name}") for name, value in parts.items())


def _read_part(name: str, value: Any, where: str) -> Part:
    if not isinstance(value, dict):
        value = {"configs": value}
    if unknown := value.keys() - {"configs", "options"}:
        raise UserError(f"{where} has {', '.join(map(str, unknown))}; expected configs and options")
    configs = value.get("configs") or []
    configs = [configs] if isinstance(configs, str) else _list(configs, f"{where}: configs")
    return Part(name, tuple(map(str, configs)), _read_options(value.get("options"), f"{where}: options"))


def _read_options(options: Any, where: str) -> Mapping[str, Any]:
    options = options or {}
    if not isinstance(options, dict):
        raise UserError(f"{where} is {options!r}, expected lines of the form `option: value`")
    for name, value in options.items():
        if name in _SET_BY_STUDY:
            raise UserError(f"{where} has {name}, which the study sets for each run")
        if value is None or isinstance(value, dict):
            raise UserError(f"{where}: {name} is {value!r}, which no flag can say: put it into a configuration file")
    return options


def _read_seed_options(options: Any, seeds: list[int]) -> Mapping[int, Mapping[str, Any]]:
    options = options or {}
    if not isinstance(options, dict) or not all(seed in seeds for seed in options):
        raise UserError(
            f"seed_options is {options!r}, expected lines of the form `seed: {{option: value}}` with seeds of {seeds}"
        )
    read = {seed: _read_options(value, f"seed_options: {seed}") for seed, value in options.items()}
    if other := sorted({name for value in read.values() for name in value} - set(_PER_SEED)):
        raise UserError(
            f"seed_options has {', '.join(other)}; seeds may differ in {' and '.join(_PER_SEED)} alone, or they could "
            "not be averaged"
        )
    return read


def _read_preparation(item: Any) -> Preparation:
    if not isinstance(item, dict) or item.keys() != {"folder", "command"}:
        raise UserError(f"prepare has {item!r}, expected a folder and the command that makes it")
    return Preparation(Path(_text(item["folder"], "folder")), tuple(shlex.split(_text(item["command"], "command"))))


def _read_numbers(numbers: Any, key: str) -> tuple[int, ...]:
    if not isinstance(numbers, list) or not numbers or any(type(number) is not int for number in numbers):
        raise UserError(f"{key} is {numbers!r}, expected a list of whole numbers")
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{key} is {numbers}: a number is given twice")
    return tuple(numbers)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{key} is {value!r}, expected text")
    return value


def _list(value: Any, key: str) -> list:
    if not isinstance(value, list):
        raise UserError(f"{key} is {value!r}, expected a list")
    return value
