"""Options of a script from YAML files, left to right, and then from the command line; every mistake in one message.

The options are dataclasses (see `hf_utils.arguments.options`). All mistakes in names and types are found, and reported
together, before any dataclass is made. An option whose type only a complete class knows (see `options.is_incomplete`)
makes the parser import that class, which takes seconds; otherwise it is imported when nothing is wrong any more.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import HfArgumentParser

from hf_utils.arguments.option_help import OptionHelpFormatter, describe_option, metavar_of
from hf_utils.arguments.options import check_value, collect_options, complete_classes, default_of, is_incomplete
from hf_utils.arguments.precedence import (
    STOCK_OF_TRAINING,
    drop_silenced,
    override,
    refuse_idle,
    warn_of_stages,
    without_unused_length,
)
from hf_utils.arguments.replaced_options import explain_unknown
from hf_utils.config_files import SUFFIXES, read_config
from hf_utils.disclosure import is_secret
from hf_utils.errors import UserError

COMMAND_LINE = "the command line"
_STOCK_GROUP = "other options of transformers.TrainingArguments"


class CommandLineParser(HfArgumentParser):
    """HfArgumentParser over `options` that collects what was given, without defaults, and raises UserError."""

    def __init__(self, options: Mapping[str, dataclasses.Field | None], description: str | None, examples: str | None):
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
        known = [field for field in options.values() if field is not None]
        self._is_complete = len(known) == len(options)
        # Stock options, which have no group, last.
        for field in sorted(known, key=lambda field: "group" not in field.metadata):
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
        if stock is None and not self._is_complete:
            stock = self.add_argument_group(_STOCK_GROUP)
        if stock is not None:
            for action in stock._group_actions:
                action.help = argparse.SUPPRESS
            stock.description = "All are accepted, as flags and in YAML files; --help_all lists them."
        self.print_help()

    def error(self, message: str):
        raise UserError(re.sub(r"^argument (--\w+)\S*:", rf"\1 on {COMMAND_LINE}:", message))


class _FurtherOptionGiven(Exception):
    """An option was given that only a complete class can check."""


def parse_command_line(
    options: Mapping[str, dataclasses.Field | None],
    argv: Sequence[str],
    description: str | None = None,
    examples: str | None = None,
) -> tuple[list[str], dict[str, Any], list[str]]:
    """Return the YAML files in their order, the values of the flags that were given, and what is wrong with names.

    `options` has None for those of which only the name is known.

    Raises UserError for a value of the wrong type, SystemExit after `--help`.
    """
    parser = CommandLineParser(options, description, examples)
    namespace, rest = parser.parse_known_args(argv)
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
            _stop_at_further(flag.removeprefix("no_"), options)
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


def _stop_at_further(name: object, options: Mapping[str, dataclasses.Field | None]) -> None:
    if name in options and options[name] is None:
        raise _FurtherOptionGiven


def parse_arguments(
    classes: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    description: str | None = None,
    examples: str | None = None,
) -> tuple:
    """Return an instance of each of `classes`, filled from `argv`, by default the command line's, and what was given.

    The last, {option: value}, is as `build_arguments` returns it. `argv` holds YAML files and flags in any order; a
    later file wins over an earlier one, a flag over every file; of options that silence each other, as
    `hf_utils.arguments.precedence`. `description` and `examples` are the first and the last paragraph of `--help`.
    Order `classes` by cost: those whose mistakes are found quickly first.

    Raises:
        UserError: all unknown, misspelt, outdated, doubled or wrongly typed options at once, each with its file and
            what to write instead; or the first contradiction that a dataclass finds.
        SystemExit: after `--help` and `--help_all`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    options = {}
    for cls in filter(is_incomplete, classes):
        options |= cls.further_options()
    options |= collect_options(classes)
    try:
        if "--help_all" in words:
            raise _FurtherOptionGiven
        values, sources, ranks = _read_options(options, words, description, examples)
    except _FurtherOptionGiven:
        options = collect_options(complete_classes(classes))
        values, sources, ranks = _read_options(options, words, description, examples)
    try:
        of_training = {name for name, field in options.items() if field is not None and "trains" in field.metadata}
        of_training |= STOCK_OF_TRAINING
        refuse_idle(values, [name for name in values if name in of_training and sources[name] == COMMAND_LINE])
        defaults = {name: default_of(field) for name, field in options.items() if field is not None}
        instances = build_arguments(classes, drop_silenced(values, ranks, defaults))
        warn_of_stages(values, ranks)
        return instances
    except UserError as error:
        message = str(error)
    involved = [name for name in sources if re.search(rf"\b{name}\b", message)]
    raise UserError("\n".join([message, *(f"  {name} comes from {sources[name]}" for name in involved)]))


def _read_options(
    options: Mapping[str, dataclasses.Field | None],
    words: Sequence[str],
    description: str | None,
    examples: str | None,
) -> tuple[dict[str, Any], dict[str, str], dict[str, int]]:
    """Return the checked options that were given, the source of each by name, and the number of that source.

    `options` has None for those of which only the name is known: if one is given, _FurtherOptionGiven is raised.

    Raises UserError for all mistakes at once.
    """
    files, flags, problems = parse_command_line(options, words, description, examples)
    values, sources, ranks = {}, {}, {}
    for rank, (source, given) in enumerate([*_read_files(files, problems), (COMMAND_LINE, flags)]):
        checked = _check_options(given, options, source, problems)
        try:
            values = override(values, checked, _where(source))
        except UserError as error:
            problems.append(str(error))
        sources |= dict.fromkeys(checked, source)
        ranks |= dict.fromkeys(checked, rank)
    if problems:
        raise UserError("\n".join(problems))
    return values, sources, ranks


def build_arguments(classes: Sequence[type], values: Mapping[str, Any]) -> tuple:
    """Return an instance of each of `classes`, from checked options by name, and {option: value} of what was given.

    Of an incomplete class it is one of the complete class, which is imported when all others are made. What was given
    is as it was written, since a dataclass may fill in what depends on the machine. Defaults that are derived from
    other options count as given; secrets and options of other classes are left out.

    Raises:
        UserError: for a required option that is missing, or a contradiction.
    """
    options = collect_options(classes)
    missing = [
        name for name, field in options.items() if default_of(field) is dataclasses.MISSING and name not in values
    ]
    if missing:
        raise UserError(
            "\n".join(f"--{name} {metavar_of(options[name])} is required, here or in a YAML file" for name in missing)
            + "; --help shows what it takes"
        )
    derived = {name: f.metadata["derive"](values) for name, f in options.items() if "derive" in f.metadata}
    values = derived | dict(values)
    instances = [_make(cls, values) for cls in classes]
    classes, incomplete = complete_classes(classes), classes
    instances = [
        instance if cls is before else _make(cls, values)
        for instance, cls, before in zip(instances, classes, incomplete, strict=True)
    ]
    given = {name: values[name] for name in collect_options(classes) if name in values and not is_secret(name)}
    return *instances, given


def _make(cls: type, values: Mapping[str, Any]) -> Any:
    try:
        return cls(**{name: values[name] for name in collect_options([cls]) if name in values})
    except UserError:
        raise
    except ValueError as error:  # the stock TrainingArguments' own checks
        raise UserError(str(error)) from error


def merged_config(classes: Iterable[type], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration behind `given`, of `build_arguments`, for `write_config` and results.json.

    It has every option of this project and those stock options that were given, each as it was asked for (`auto` stays
    `auto`), and never a secret; of `num_train_epochs` and `max_steps` only the one that counts. As a YAML file it
    parses to the same configuration.
    """
    config = {}
    for name, field in collect_options(complete_classes(classes)).items():
        if name in given:
            config[name] = given[name]
        elif "group" in field.metadata and not is_secret(name):
            config[name] = default_of(field)
    return without_unused_length(config)


def _read_files(files: Iterable[str], problems: list[str]) -> list[tuple[str, dict]]:
    configs = []
    for file in files:
        try:
            configs.append((file, read_config(file)))
        except UserError as error:
            problems.append(str(error))
    return configs


def _where(source: str) -> str:
    return f"on {source}" if source == COMMAND_LINE else f"in {source}"


def _check_options(
    given: Mapping, options: Mapping, source: str, problems: list[str], prefix: str = ""
) -> dict[str, Any]:
    """Return the checked options of one file or of the command line; add what is wrong to `problems`."""
    checked, where = {}, _where(source)
    for name, value in given.items():
        _stop_at_further(name, options)
        if name not in options:
            problems.append(explain_unknown(name, options, f"{prefix}{name} {where}"))
        elif is_secret(name) and source != COMMAND_LINE and value is not None:
            others = "HF_TOKEN, `hf auth login` or " if name == "hub_token" else ""
            problems.append(f"{name} in {source} is a secret in a file: use {others}--{name}")
        else:
            try:
                checked[name] = check_value(options[name], value)
            except ValueError as error:
                problems.append(f"{prefix}{name} {where} is {error}")
    for name, value in checked.items():
        if options[name].metadata.get("yaml_only") and value is not None:
            inner = {key: field for key, field in options.items() if key != name}
            for index, part in enumerate(value):
                value[index] = _check_options(part, inner, source, problems, f"{prefix}{name}[{index}].")
    return checked
