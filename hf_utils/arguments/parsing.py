"""Options of a script from YAML files, left to right, and then from the command line; every mistake in one message.

The options are dataclasses (see `hf_utils.arguments.options`). All mistakes in names and types are found, and reported
together, before any dataclass is made: making TrainingArguments already takes seconds.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_utils.arguments.command_line import COMMAND_LINE, parse_command_line
from hf_utils.arguments.option_help import describe_option
from hf_utils.arguments.options import check_value, collect_options, default_of
from hf_utils.arguments.replaced_options import explain_unknown
from hf_utils.config_files import read_config, write_config
from hf_utils.disclosure import is_secret
from hf_utils.errors import UserError

__all__ = ["build_arguments", "merged_config", "parse_arguments", "write_config"]


def parse_arguments(
    classes: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    description: str | None = None,
    examples: str | None = None,
) -> tuple:
    """Return one instance of each dataclass, filled from `argv`, by default the command line's.

    `argv` holds YAML files and flags in any order; a later file wins over an earlier one, a flag over every file.
    `description` and `examples` are the first and the last paragraph of `--help`. Order `classes` by cost: those whose
    mistakes are found quickly first.

    Raises:
        UserError: all unknown, misspelt, outdated, doubled or wrongly typed options at once, each with its file and
            what to write instead; or the first contradiction that a dataclass finds.
        SystemExit: after `--help` and `--help_all`.
    """
    options = collect_options(classes)
    files, flags, problems = parse_command_line(options, argv, description, examples)
    values, sources = {}, {}
    for source, given in [*_read_files(files, problems), (COMMAND_LINE, flags)]:
        for name, value in _check_options(given, options, source, problems).items():
            values[name], sources[name] = value, source
    if problems:
        raise UserError("\n".join(problems))
    try:
        return build_arguments(classes, values)
    except UserError as error:
        message = str(error)
    involved = [name for name in sources if re.search(rf"\b{name}\b", message)]
    raise UserError("\n".join([message, *(f"  {name} comes from {sources[name]}" for name in involved)]))


def build_arguments(classes: Iterable[type], values: Mapping[str, Any]) -> tuple:
    """Return one instance of each dataclass from checked options by name; the rest get their defaults.

    Raises:
        UserError: for a required option that is missing, or a contradiction.
    """
    options = collect_options(classes)
    missing = [
        name for name, field in options.items() if default_of(field) is dataclasses.MISSING and name not in values
    ]
    if missing:
        raise UserError("\n".join(f"{name} is required: {describe_option(options[name])}" for name in missing))
    derived = {name: f.metadata["derive"](values) for name, f in options.items() if "derive" in f.metadata}
    values = derived | dict(values)
    instances = []
    for cls in classes:
        given = {name: values[name] for name in collect_options([cls]) if name in values}
        try:
            instance = cls(**given)
        except UserError:
            raise
        except ValueError as error:  # the stock TrainingArguments' own checks
            raise UserError(str(error)) from error
        # Kept as they were given: a dataclass may fill in what depends on the machine.
        instance.given_options = {name: value for name, value in given.items() if not is_secret(name)}
        instances.append(instance)
    return tuple(instances)


def merged_config(instances: Iterable) -> dict[str, Any]:
    """Return the configuration behind the instances of `parse_arguments`, for `write_config` and results.json.

    It has every option of this project and those stock options that were given, each as it was asked for (`auto` stays
    `auto`), and never a secret. As a YAML file it parses to the same configuration.
    """
    config = {}
    for instance in instances:
        for name, field in collect_options([type(instance)]).items():
            if name in instance.given_options:
                config[name] = instance.given_options[name]
            elif "group" in field.metadata and not is_secret(name):
                config[name] = default_of(field)
    return config


def _read_files(files: Iterable[str], problems: list[str]) -> list[tuple[str, dict]]:
    configs = []
    for file in files:
        try:
            configs.append((file, read_config(file)))
        except UserError as error:
            problems.append(str(error))
    return configs


def _check_options(
    given: Mapping, options: Mapping, source: str, problems: list[str], prefix: str = ""
) -> dict[str, Any]:
    """Return the checked options of one file or of the command line; add what is wrong to `problems`."""
    checked, where = {}, f"on {source}" if source == COMMAND_LINE else f"in {source}"
    for name, value in given.items():
        if name not in options:
            problems.append(explain_unknown(name, options, f"{prefix}{name} {where}"))
        elif is_secret(name) and source != COMMAND_LINE and value is not None:
            problems.append(f"{name} in {source} is a secret in a file: use HF_TOKEN, `hf auth login` or --{name}")
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
