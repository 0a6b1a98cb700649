"""One option of a script: a dataclass field with its group, its help, and the values that it takes.

Field metadata: `help`, `metavar` and `choices` are argparse's. `group` puts the option into `--help` and into every
saved configuration; stock options, which have none, are accepted all the same. A `yaml_only` option has no flag.
`derive(options)` gives an option's default from the other options. `trains` marks an option that does nothing in a run
that trains nothing. `at_least`, `above`, `at_most` and `below` bound a number.
"""

import dataclasses
import inspect
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Literal, Union

_KINDS = {bool: "true or false", int: "a whole number", float: "a float", str: "text", dict: "a mapping"}
_BOUNDS = {
    "at_least": ("at least", operator.ge),
    "above": ("more than", operator.gt),
    "at_most": ("at most", operator.le),
    "below": ("less than", operator.lt),
}

# Floats that YAML 1.1 reads as text, because it wants a dot in the number and a sign in the exponent.
_FLOAT_TEXT = re.compile(r"([+-]?\d+)(\.\d*)?[eE]([+-]?)(\d+)")


def option(
    default: Any,
    help: str,
    *,
    group: str,
    metavar: str | None = None,
    yaml_only: bool = False,
    derive: Callable[[Mapping[str, Any]], Any] | None = None,
    trains: bool = False,
    **bounds: float,
) -> Any:
    """Return a dataclass field. `dataclasses.MISSING` as default makes the option required."""
    metadata = {"help": help, "group": group, "metavar": metavar, "yaml_only": yaml_only, "derive": derive}
    metadata["trains"] = trains
    metadata = {key: value for key, value in metadata.items() if value} | bounds
    assert bounds.keys() <= _BOUNDS.keys(), bounds
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def collect_options(classes: Iterable[type]) -> dict[str, dataclasses.Field]:
    """Return the options of `classes` by name, as fields with resolved types.

    An option that a subclass declares anew is listed where the subclass has it, so that the help can be put in order.
    """
    options = {}
    for cls in classes:
        hints = typing.get_type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
        for base in reversed(cls.__mro__):
            for name in inspect.get_annotations(base):
                if name in fields:
                    options.pop(name, None)
                    options[name] = _copy(fields[name], hints[name])
    return options


def is_incomplete(cls: type) -> bool:
    """Whether a subclass of `cls`, whose import is slow, has further options.

    Such a class has two static methods: `complete_class()` imports and returns the subclass, and `further_options()`
    returns {name: its field, or None where only the name is known} of its options without that.
    """
    return "complete_class" in vars(cls)  # the subclass inherits it


def complete_classes(classes: Iterable[type]) -> tuple[type, ...]:
    """Return `classes` with the complete class in place of every incomplete one."""
    return tuple(cls.complete_class() if is_incomplete(cls) else cls for cls in classes)


def _copy(field: dataclasses.Field, hint: Any) -> dataclasses.Field:
    copied = dataclasses.field(default=field.default, default_factory=field.default_factory, metadata=field.metadata)
    copied.name, copied.type = field.name, hint
    return copied


def default_of(field: dataclasses.Field) -> Any:
    """Return the option's default, a new object each time; `dataclasses.MISSING` if the option is required."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def collect_defaults(classes: Iterable[type]) -> dict[str, Any]:
    """Return {option: default} of the complete classes of `classes`, as `default_of`."""
    return {name: default_of(field) for name, field in collect_options(complete_classes(classes)).items()}


def check_value(field: dataclasses.Field, value: Any) -> Any:
    """Return `value` in the option's type: a whole number becomes a float where one is wanted, nothing else changes.

    Raises:
        ValueError: saying what was found and what is expected, in words that follow "<option> in <file> is".
    """
    if value is True and field.metadata.get("const") is True:
        return value  # stock options such as `fsdp`: text, or merely switched on
    value = _check(field.type, value)
    choices = field.metadata.get("choices")
    if choices and value is not None and value not in choices:
        raise ValueError(f"{_found(value)}, expected one of {', '.join(choices)}")
    for name, (words, holds) in _BOUNDS.items():
        bound = field.metadata.get(name)
        if bound is not None and value is not None and not holds(value, bound):
            raise ValueError(f"{value}, expected {words} {bound}")
    return value


def _check(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _check_union(arguments, value)
    if origin is Literal or (inspect.isclass(origin) and issubclass(origin, Enum)):
        choices = arguments if origin is Literal else tuple(member.value for member in origin)
        if value in choices and type(value) in {type(choice) for choice in choices}:
            return value
        raise ValueError(f"{_found(value)}, expected one of {', '.join(map(str, choices))}{_remedy(value, choices)}")
    if origin is list:
        if isinstance(value, list):
            return [_check(arguments[0], item) for item in value]
        raise ValueError(f"{_found(value)}, expected a list: write [{value}]")
    if origin is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{value}, expected a finite number")
        return float(value)
    if type(value) is origin:
        return value
    expected = _KINDS.get(origin, "nothing: it cannot be set by an option")
    raise ValueError(f"{_found(value)}, expected {expected}{_remedy(value, origin)}")


def _check_union(members: tuple, value: Any) -> Any:
    if value is None and types.NoneType in members:
        return None
    members = tuple(member for member in members if member is not types.NoneType)
    # `SomeEnum | str` means the values of the enum.
    enums = [member for member in members if inspect.isclass(member) and issubclass(member, Enum)]
    errors = []
    for member in enums or members:
        try:
            return _check(member, value)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def _found(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "empty"
    if isinstance(value, (list, dict)):
        return f"the {'list' if isinstance(value, list) else 'mapping'} {value}"
    return f"the {'number' if isinstance(value, (int, float)) else type(value).__name__} {value}"


def _remedy(value: Any, wanted: Any) -> str:
    """Return what to write instead, where YAML or the user is known to mean something else."""
    number = _FLOAT_TEXT.fullmatch(value) if wanted is float and isinstance(value, str) else None
    if number:
        whole, fraction, sign, exponent = number.groups()
        return f"; YAML reads {value} as text: write {whole}{fraction or '.0'}e{sign or '+'}{exponent}"
    if isinstance(value, bool) and isinstance(wanted, tuple) and {"no", "yes", "on", "off"} & set(wanted):
        return f'; YAML reads a bare no or off as false and yes or on as true: write it in quotes, "{_word(value)}"'
    if wanted is str and not isinstance(value, (list, dict)) and value is not None:
        return "; write it in quotes"
    if wanted is bool and isinstance(value, str):
        return "; write true or false without quotes"
    if wanted in (int, float) and isinstance(value, str) and value.strip("+-").isdecimal():
        return "; remove the quotes"
    return ""


def _word(value: bool) -> str:
    return "yes" if value else "no"
