"""The text of `--help`: one entry per option with its unit and its default."""

import argparse
import dataclasses
import inspect
import types
import typing
from enum import Enum

from hf_utils.arguments.options import default_of

_METAVARS = {int: "N", float: "X", dict: "JSON"}

# Longer lists of choices (the optimisers) would bury the option; the message for a wrong value lists them.
_MAX_SHOWN_CHOICES = 6


class OptionHelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows each option once (argparse would add its spelling with hyphens) and its help as it is, `%` included."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flag = action.option_strings[0]
        if action.metavar == "" or action.nargs == 0:
            return flag
        values = self._format_args(action, "X") if action.nargs != "+" else f"{action.metavar} ..."
        return f"{flag} {values}" if values else flag

    def _expand_help(self, action: argparse.Action) -> str:
        return action.help


def describe_option(field: dataclasses.Field) -> str:
    """Return the help of an option with its default, unless the help itself speaks of the default."""
    # Stock texts are written for argparse, which reads %% as %.
    text = field.metadata.get("help", "").replace("%%", "%").strip()
    if "default" in text.lower() and "group" in field.metadata:
        return text
    default = default_of(field)
    if default is dataclasses.MISSING:
        return f"{text} (required)"
    if isinstance(default, Enum):
        default = default.value
    if isinstance(default, bool):
        default = f"on; --no_{field.name} switches it off" if default else "off"
    elif isinstance(default, list):
        default = " ".join(map(str, default)) or "none"
    elif default in (None, ""):
        default = "none"
    elif isinstance(default, float):
        default = f"{default:g}"
    return f"{text} (default: {default})"


def metavar_of(field: dataclasses.Field) -> str:
    """Return the placeholder in the help: the option's own word, its choices, or its type; "" for none."""
    if "metavar" in field.metadata:
        return field.metadata["metavar"]
    is_union = typing.get_origin(field.type) in (typing.Union, types.UnionType)
    kinds = [
        kind for kind in (typing.get_args(field.type) if is_union else (field.type,)) if kind is not types.NoneType
    ]
    if bool in kinds or field.metadata.get("const") is True:
        return ""
    kind = typing.get_args(kinds[0])[0] if typing.get_origin(kinds[0]) is list else kinds[0]
    choices = field.metadata.get("choices", ())
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
    elif inspect.isclass(kind) and issubclass(kind, Enum):
        choices = [member.value for member in kind]
    if choices:
        return "{" + ",".join(choices) + "}" if len(choices) <= _MAX_SHOWN_CHOICES else "NAME"
    return _METAVARS.get(typing.get_origin(kind) or kind, "TEXT")
