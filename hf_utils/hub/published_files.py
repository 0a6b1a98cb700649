"""What of a finished folder is for others: an allow list, and texts without the folders of this machine."""

import json
import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from hf_utils.config_files import read_config
from hf_utils.disclosure import is_secret, show_source, show_value
from hf_utils.errors import UserError
from hf_utils.files import ADAPTER_FILE, ADAPTER_FOLDER, CONFIG_FILE, find_lost_shards

# What loads a model, and what its weights know of recordings (`data.split_record`): all that a checkpoint in the
# middle of a training has for others.
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
_CODE = ("configuration_*.py", "modeling_*.py", "feature_extraction_*.py")
_TEXTS = ("model.safetensors.index.json", "config.json", "preprocessor_config.json", "split.json")
_ADAPTERS = (f"{ADAPTER_FOLDER}/{ADAPTER_FILE}", f"{ADAPTER_FOLDER}/adapter_config.json")
LOADED_FILES = (*_WEIGHTS, *_TEXTS, *_CODE, *_ADAPTERS)
_PUBLISHED = {
    "model": (*LOADED_FILES, "README.md", "results.json", CONFIG_FILE, "confusion_*.png", "robustness*.png"),
    "dataset": ("data/*.parquet", "README.md", "config.json", "report/quality.*"),
}
# Several of these from different pushes would be read as one model or dataset.
_READ_TOGETHER = {"model": (*_WEIGHTS, "model.safetensors.index.json"), "dataset": ("data/*.parquet",)}


def find_kind(folder: Path) -> str:
    """Return "dataset" for a folder with Parquet files in `data`, else "model"."""
    return "dataset" if any(folder.glob("data/*.parquet")) else "model"


def is_replaced(kind: str) -> Callable[[str], bool]:
    """Return whether a file of a repository, by its path, would mix with those of a new push."""
    return lambda name: _is_weights(kind, name) or any(_matches(name, pattern) for pattern in _ADAPTERS)


def _is_weights(kind: str, name: str) -> bool:
    return any(_matches(name, pattern) for pattern in _READ_TOGETHER[kind])


def select_published(folder: str | os.PathLike, kind: str) -> dict[str, Path | bytes]:
    """Return {path in the repository: file, or its bytes where paths and secrets had to go}, large files first.

    Raises:
        UserError: the folder holds no finished run or dataset.
    """
    folder = Path(folder)
    contents = find_files(folder, _PUBLISHED[kind])
    needed = ["config.json", "README.md"] + (["results.json"] if kind == "model" else [])
    absent = [name for name in needed if name not in contents]
    if not any(_is_weights(kind, name) for name in contents):
        absent.append("model.safetensors" if kind == "model" else "data/*.parquet")
    if absent:
        raise UserError(f"{folder} is no finished {kind} to push: it has no {', no '.join(absent)}")
    if kind == "dataset" and (lost := find_lost_shards(folder)):
        raise UserError(
            f"{folder} is no finished dataset to push: of the files in data, {lost} are missing. The command that "
            "made it makes them again."
        )
    if "results.json" in contents:
        results = json.loads(contents["results.json"].read_text(encoding="utf-8"))
        contents["results.json"] = to_public_json(results)
    if CONFIG_FILE in contents:
        config = _without_paths(read_config(contents[CONFIG_FILE]))
        contents[CONFIG_FILE] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
    return contents


def find_files(folder: Path, patterns: tuple[str, ...] = LOADED_FILES) -> dict[str, Path | bytes]:
    """Return {relative path: file} of those files of a folder that match, in the order of the patterns.

    Of a config.json that names a folder of this machine, bytes that do not.
    """
    found = (path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file())
    contents: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in found}
    if "config.json" in contents:
        text = (folder / "config.json").read_text(encoding="utf-8")
        config = json.loads(text, object_hook=_without_origin)
        if config != json.loads(text):
            contents["config.json"] = json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"
    return contents


def to_public_json(value: Any) -> bytes:
    """Return JSON without secrets, and with absolute paths reduced to their last part."""
    return json.dumps(_without_paths(value), indent=2, ensure_ascii=False).encode() + b"\n"


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_paths(key): _without_paths(item) for key, item in value.items() if not is_secret(str(key))}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    name, equals, source = value.partition("=")  # as eval_datasets has them
    return show_value(f"{name}={show_source(source)}" if equals else value)


def _without_origin(config: dict) -> dict:
    """transformers notes in the configurations of parts of a model from where they were loaded."""
    name = config.get("_name_or_path")
    return {**config, "_name_or_path": show_source(name)} if isinstance(name, str) else config


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)
