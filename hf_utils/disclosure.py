"""What may be shown to others: names of data and models, options and commands, without secrets and home folders."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub.utils import HFValidationError, validate_repo_id


def is_secret(name: str) -> bool:
    """Whether the option's value may be in no file, log or message; a flag's spelling with hyphens counts too."""
    return name in ("token", "search_storage", "search-storage") or name.endswith(("_token", "-token"))


_HUB_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")


def is_hub_id(name: str) -> bool:
    """Whether `name` can be a repository on the Hub: a valid id, and no file or folder here."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def show_source(name: str) -> str:
    """Return a dataset's or model's name for others: of an absolute path, or one from `.` or `..`, the last part."""
    if name in (".", "..") or name.startswith(("/", "~", "./", "../")):
        last = PurePosixPath(name).name
        return last if last not in ("", "..") else Path(name).expanduser().resolve().name
    return PureWindowsPath(name).name if re.match(r"[A-Za-z]:\\|\\\\", name) else name


SHORTENED_NOTE = (
    "This is not the command as it was typed: secrets are left out, and path/to/ is in place of the folders of "
    "absolute paths. Put yours there."
)


def show_command(command: str) -> str:
    """Return a command line without secrets, and with path/to/ in place of the folders of absolute paths."""
    try:
        words = shlex.split(command)
    except ValueError:  # not written by shlex.join: then blanks part it
        words = command.split()
    shown, follows_secret = [], False
    for word in words:
        if follows_secret and not word.startswith("--"):
            follows_secret = False
            continue
        name, equals, value = word.partition("=")
        secret = is_secret(name.lstrip("-").replace("-", "_").lower()) and (equals or name.startswith("-"))
        follows_secret = secret and not equals
        if not secret:
            shown.append(f"{name}={_show_path(value)}" if equals else _show_path(word))
    return _HUB_TOKEN.sub("***", shlex.join(shown))


def _show_path(word: str) -> str:
    last = show_source(word)
    return word if last == word else f"path/to/{last}"


def show_value(value: Any) -> str:
    """Return the value of an option as text, with absolute paths reduced to their last part."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {show_value(item)}" for key, item in value.items() if not is_secret(str(key)))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(show_value, value))
    return _HUB_TOKEN.sub("***", show_source(value)) if isinstance(value, str) else str(value)
