"""The command line of a script: YAML files and flags in any order, and `--help`."""

import argparse
import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import HfArgumentParser

from hf_utils.arguments.option_help import OptionHelpFormatter, describe_option, metavar_of
from hf_utils.arguments.replaced_options import explain_unknown
from hf_utils.config_files import SUFFIXES
from hf_utils.errors import UserError

COMMAND_LINE = "the command line"
_STOCK_GROUP = "other options of transformers.TrainingArguments"


class CommandLineParser(HfArgumentParser):
    """HfArgumentParser over `options` that collects what was given, without defaults, and raises UserError."""

    def __init__(self, options: Mapping[str, dataclasses.Field], description: str | None, examples: str | None):
        super().__init__(
            description=description,
            epilog=examples,
            usage="%(prog)s [FILE.yaml ...] [--option value ...]",
            formatter_class=OptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
            argument_default=argparse.SUPPRESS,
        )
        groups = {
            "help": self.add_argument_group(
                "help",
                "YAML files apply from left to right, flags last. In a file, write `learning_rate: 3.0e-5`.",
            )
        }
        for flag, help in (("--help", "Show the usual options."), ("--help_all", "Show every option.")):
            groups["help"].add_argument(flag, action="store_true", help=help)
        # Stock options, which have no group, last.
        for field in sorted(options.values(), key=lambda field: "group" not in field.metadata):
            title = field.metadata.get("group", _STOCK_GROUP)
            if field.metadata.get("yaml_only"):
                continue
            if title not in groups:
                groups[title] = self.add_argument_group(title)
            self._add_option(groups[title], field)

    def _add_option(self, group, field: dataclasses.Field) -> None:
        extra = {key: field.metadata[key] for key in ("choices", "nargs", "const") if key in field.metadata}
        bare = dataclasses.field(default=field.default, default_factory=field.default_factory, metadata=extra)
        bare.name, bare.type = field.name, field.type
        before = len(self._actions)
        # transformers' own translation of a type hint into an argparse argument.
        self._parse_dataclass_field(group, bare)
        action, *negation = self._actions[before:]
        action.help, action.metavar = describe_option(field), metavar_of(field)
        if action.metavar == "":
            action.nargs, action.const = "?", True  # also where the default is None
        for added in (action, *negation):
            added.default, added.required = argparse.SUPPRESS, False
        for added in negation:
            added.help = argparse.SUPPRESS

    def print_usual_help(self) -> None:
        """Print the help without the stock options that this project does not document."""
        stock = next((group for group in self._action_groups if group.title == _STOCK_GROUP), None)
        if stock:
            for action in stock._group_actions:
                action.help = argparse.SUPPRESS
            stock.description = "All are accepted, as flags and in YAML files; --help_all lists them."
        self.print_help()

    def error(self, message: str):
        raise UserError(re.sub(r"^argument (--\w+)\S*:", rf"\1 on {COMMAND_LINE}:", message))


def parse_command_line(
    options: Mapping[str, dataclasses.Field],
    argv: Sequence[str] | None,
    description: str | None = None,
    examples: str | None = None,
) -> tuple[list[str], dict[str, Any], list[str]]:
    """Return the YAML files in their order, the values of the flags that were given, and what is wrong with names.

    Raises UserError for a value of the wrong type, SystemExit after `--help`.
    """
    parser = CommandLineParser(options, description, examples)
    namespace, rest = parser.parse_known_args(argv if argv is None else list(argv))
    given = vars(namespace)
    if given.pop("help_all", False):
        parser.print_help()
        sys.exit(0)
    if given.pop("help", False):
        parser.print_usual_help()
        sys.exit(0)
    files, problems, flag = [], [], None
    for word in rest:
        if word.startswith("-"):
            flag = word.split("=")[0].lstrip("-").replace("-", "_")
            where = f"--{flag} on {COMMAND_LINE}"
            problems.append(
                f"{where} has no flag: write it into a YAML file"
                if flag in options
                else explain_unknown(flag, options, where)
            )
        elif word.endswith(SUFFIXES):
            files.append(word)
        elif flag is None:  # else it is the value of the unknown flag before it
            problems.append(f"{word!r} on {COMMAND_LINE} is neither a flag nor a YAML file (*.yaml, *.yml)")
    for name, value in given.items():
        swallowed = [item for item in value if str(item).endswith(SUFFIXES)] if isinstance(value, list) else []
        if swallowed:
            problems.append(f"{name} on {COMMAND_LINE} takes {swallowed[0]} for one of its values: name files first")
    return files, given, problems
