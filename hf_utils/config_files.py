"""YAML configuration files: read with every mistake named, and written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hf_utils.errors import UserError

SUFFIXES = (".yaml", ".yml")


class _UniqueKeyLoader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that is given twice; plain YAML lets the last one win in silence."""

    def construct_mapping(self, node, deep=False):
        lines = {}
        for key_node, _ in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in lines:
                raise UserError(f"{key} is given twice, in lines {lines[key]} and {line}: keep one")
            lines[key] = line
        return super().construct_mapping(node, deep)


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the options in a YAML file. Raises UserError naming the file, and the line where there is one."""
    try:
        options = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text, expected a YAML file") from None
    except ValueError as error:  # a key twice, or an impossible date
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), expected a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    if options is None:
        raise UserError(f"{path}: the file is empty, expected lines of the form `option: value`")
    if not isinstance(options, dict):
        kind = "a list" if isinstance(options, list) else f"the {type(options).__name__} {options!r}"
        raise UserError(f"{path}: found {kind}, expected lines of the form `option: value`")
    return options


def write_config(path: str | Path, config: Mapping[str, Any]) -> None:
    """Write options as a YAML file that `read_config` gives back equal."""
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=1000)
    Path(path).write_text(text, encoding="utf-8")
