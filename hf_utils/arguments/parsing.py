"""Options of a script from YAML files, left to right, and then from the command line; every mistake in one message.

The options are dataclasses (see `hf_utils.arguments.options`). All mistakes in names and types are found, and reported
together, before any dataclass is made: making TrainingArguments already takes seconds.

What became of options that people know from elsewhere: transformers 4 and its audio-classification example.

The text of `--help`: one entry per option with its unit and its default, in groups.

The command line of a script: YAML files and flags in any order, and `--help`.
"""

import argparse
import dataclasses
import difflib
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from transformers import HfArgumentParser

from hf_utils.arguments.options import check_value, collect_options, default_of
from hf_utils.arguments.precedence import drop_silenced, override, warn_of_stages, without_unused_length
from hf_utils.config_files import SUFFIXES, read_config
from hf_utils.disclosure import is_secret
from hf_utils.errors import UserError

_WORKERS = "the data loader's workers are set by dataloader_num_workers, the decoding ones by num_proc"
REPLACED_OPTIONS = {
    # transformers 4: renamed or removed in version 5
    "evaluation_strategy": "use eval_strategy",
    "warmup_ratio": "use warmup_steps: below 1 it is a fraction of all steps",
    "no_cuda": "use use_cpu",
    "use_mps_device": "leave it out: the device is found; use_cpu keeps to the processor",
    "tokenizer": "leave it out: the feature extractor is loaded with model_name_or_path",
    "overwrite_output_dir": "use overwrite",
    "logging_dir": "leave it out: TensorBoard events go to the folder tensorboard in output_dir",
    "group_by_length": "leave it out: every window has the same length",
    "save_safetensors": "leave it out: weights are always saved as safetensors",
    "half_precision_backend": "use precision: auto, fp32, bf16 or fp16",
    "fp16_backend": "use precision: auto, fp32, bf16 or fp16",
    "fp16_opt_level": "use precision: auto, fp32, bf16 or fp16",
    "include_inputs_for_metrics": "use include_for_metrics: [inputs]",
    "push_to_hub_model_id": "use hub_model_id",
    "push_to_hub_organization": "use hub_model_id: organization/name",
    "push_to_hub_token": "use hub_token, on the command line only",
    "token": "use hub_token, on the command line only",
    "use_auth_token": "use hub_token, on the command line only",
    "per_gpu_train_batch_size": "use per_device_train_batch_size",
    "per_gpu_eval_batch_size": "use per_device_eval_batch_size",
    "adafactor": "use optim: adafactor",
    "dispatch_batches": "use accelerator_config: {dispatch_batches: ...}",
    "split_batches": "use accelerator_config: {split_batches: ...}",
    "torchdynamo": "use torch_compile_backend",
    # transformers' example script for audio classification
    "train_file": "use dataset_name: it takes a folder of genre folders or a CSV file",
    "eval_file": "use eval_datasets: [NAME=PATH]",
    "train_split_name": "use split_protocol: provided (the dataset's own splits), or another protocol",
    "eval_split_name": "use split_protocol: provided (the dataset's own splits), or another protocol",
    "max_train_samples": "use train_datasets: ['real:0.1'] for a tenth of each genre",
    "max_eval_samples": "leave it out: every track of a split is evaluated",
    "max_length_seconds": "use window_seconds",
    "config_name": "use model_name_or_path: a folder with only a config.json trains from random weights",
    "feature_extractor_name": "leave it out: the feature extractor is loaded with model_name_or_path",
    "freeze_feature_encoder": "use freeze: feature_encoder",
    "freeze_feature_extractor": "use freeze: feature_encoder",
    "freeze_base_model": "use freeze: backbone",
    "attention_mask": "leave it out: windows have one length, so nothing is padded and no mask is needed",
    "return_attention_mask": "leave it out: windows have one length, so nothing is padded and no mask is needed",
    "ignore_mismatched_sizes": "leave it out: a head of another size is always replaced",
    "preprocessing_num_workers": _WORKERS,
    # names that one could expect here
    "config": "name YAML files without a flag: run_classification.py configs/ast.yaml",
    "model": "use model_name_or_path",
    "dataset": "use dataset_name",
    "batch_size": "use per_device_train_batch_size and per_device_eval_batch_size",
    "lr": "use learning_rate",
    "epochs": "use num_train_epochs",
    "num_epochs": "use num_train_epochs",
    "num_workers": _WORKERS,
}


def explain_unknown(name: object, options: Iterable[str], where: str) -> str:
    """Return the message for an option that does not exist; `where` names it and its source."""
    if name in REPLACED_OPTIONS:
        return f"{where} is not an option here: {REPLACED_OPTIONS[name]}"
    nearest = difflib.get_close_matches(str(name), list(options), n=1)
    return f"{where} is not an option: " + (f"the nearest is {nearest[0]}" if nearest else "--help_all lists all")


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
    `hf_utils.arguments.precedence`. `description` and `examples` are the first and the
    last paragraph of `--help`. Order `classes` by cost: those whose mistakes are found quickly first.

    Raises:
        UserError: all unknown, misspelt, outdated, doubled or wrongly typed options at once, each with its file and
            what to write instead; or the first contradiction that a dataclass finds.
        SystemExit: after `--help` and `--help_all`.
    """
    options = collect_options(classes)
    files, flags, problems = parse_command_line(options, argv, description, examples)
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
    try:
        defaults = {name: default_of(field) for name, field in options.items()}
        instances = build_arguments(classes, drop_silenced(values, ranks, defaults))
        warn_of_stages(values, ranks)
        return instances
    except UserError as error:
        message = str(error)
    involved = [name for name in sources if re.search(rf"\b{name}\b", message)]
    raise UserError("\n".join([message, *(f"  {name} comes from {sources[name]}" for name in involved)]))


def build_arguments(classes: Iterable[type], values: Mapping[str, Any]) -> tuple:
    """Return an instance of each of `classes`, from checked options by name, and {option: value} of what was given.

    What was given is as it was written, since a dataclass may fill in what depends on the machine. Defaults that are
    derived from other options count as given; secrets and options of other classes are left out.

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
    instances = []
    for cls in classes:
        try:
            instances.append(cls(**{name: values[name] for name in collect_options([cls]) if name in values}))
        except UserError:
            raise
        except ValueError as error:  # the stock TrainingArguments' own checks
            raise UserError(str(error)) from error
    given = {name: values[name] for name in options if name in values and not is_secret(name)}
    return *instances, given


def merged_config(classes: Iterable[type], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration behind `given`, of `build_arguments`, for `write_config` and results.json.

    It has every option of this project and those stock options that were given, each as it was asked for (`auto` stays
    `auto`), and never a secret; of `num_train_epochs` and `max_steps` only the one that counts. As a YAML file it
    parses to the same configuration.
    """
    config = {}
    for name, field in collect_options(classes).items():
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
