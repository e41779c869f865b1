"""Frozen dataclasses as the schema of a configuration: types, ranges, clear errors.

A field states its default, what is allowed and what it means::

    temperature: float = setting(0.1, allowed=POSITIVE, doc="Softmax temperature.")

`validate` belongs in ``__post_init__``; `build` makes a dataclass from nested
mappings and names the offending key in one line.
"""

import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake of the caller in one line; programs print it and exit with status 2."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The message as printed lines; line breaks inside names are escaped."""
        return (as_line(str(self)),)


class ConfigError(UserError, ValueError):
    """Values that the configuration does not allow.

    Args:
        *messages: a line for each of them.
    """

    def __init__(self, *messages: str) -> None:
        super().__init__(*messages)

    def __str__(self) -> str:
        return "\n".join(self.lines) if len(self.args) > 1 else "".join(self.args)

    @property
    def lines(self) -> tuple[str, ...]:
        """The messages, one line for each value."""
        return tuple(map(as_line, self.args))

    def renamed(self, rename: Callable[[str], str]) -> "ConfigError":
        """The same error with each message replaced, for example to add a prefix."""
        return ConfigError(*map(rename, self.args))


def as_line(message: str) -> str:
    """The message on one line: line breaks in it are escaped."""
    return "\\n".join(message.splitlines())


class Conflicts:
    """Collects errors, so that all of them are reported together.

    At the end of a ``with`` block everything that was noted is raised as one
    `ConfigError`, after what was raised inside, if anything was.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []

    def require(self, condition: bool, message: str | Callable[[], str]) -> None:
        """Adds the message unless the condition holds; raises nothing."""
        with self.noting():
            require(condition, message)

    @contextlib.contextmanager
    def noting(self, rename: Callable[[str], str] = str) -> Iterator[None]:
        """Adds the ConfigErrors that are raised inside, with each message renamed."""
        try:
            yield
        except ConfigError as error:
            self.messages += map(rename, error.args)

    def __enter__(self) -> "Conflicts":
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, ConfigError):
            self.messages += error.args
        elif error is not None:
            return
        if self.messages:
            raise ConfigError(*dict.fromkeys(self.messages)) from None


def did_you_mean(name: str, known: Collection[str]) -> str:
    """The nearest of the known names, as the end of a message; "" if none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of numbers, printed in interval notation such as [0, inf)."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float):
            return False
        try:
            if not math.isfinite(value):
                return False
        except OverflowError:  # an integer too long for a float
            return False
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below

    def __str__(self) -> str:
        left = "(" if self.low_open or self.low == -math.inf else "["
        right = ")" if self.high_open or self.high == math.inf else "]"
        return f"a number in {left}{self.low:g}, {self.high:g}{right}"


POSITIVE = Range(low=0, low_open=True)
NON_NEGATIVE = Range(low=0)
FRACTION = Range(low=0, high=1)
BELOW_ONE = Range(low=0, high=1, high_open=True)
COUNT = Range(low=1)
SEED = Range(low=0, high=2**32 - 1)


@dataclasses.dataclass(frozen=True)
class OneOf(Collection):
    """Allows the names of a table and import paths ``package.module:name``.

    Attributes:
        table: what the names stand for.
    """

    table: Mapping[str, Any]

    def __contains__(self, name: object) -> bool:
        return name in self.table or is_import_path(name)

    def __iter__(self) -> Iterator[str]:
        yield from (*self.table, "or an import path package.module:name")

    def __len__(self) -> int:
        return len(self.table)


_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_import_path(name: object) -> bool:
    """Whether a value is written as ``package.module:name``."""
    return isinstance(name, str) and _IMPORT_PATH.fullmatch(name) is not None


def resolve(name: str, table: Mapping[str, T], key: str) -> T | Any:
    """The object that a name of a table or an import path stands for.

    Modules are searched in sys.path and then in the working directory, which is not in
    sys.path of an installed command.

    Args:
        name: "resnet50" or "package.module:name".
        table: the known names.
        key: how messages call the setting.

    Raises:
        ConfigError: the name is unknown, or cannot be imported.
    """
    if name in table:
        return table[name]
    if not is_import_path(name):
        raise ConfigError(
            f"{key}: expected one of {', '.join(OneOf(table))}, got {name!r}"
        )
    module_name, _, attributes = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    # Importing runs the user's own code, which may fail in any way.
    except Exception as error:
        raise ConfigError(
            f"{key}: cannot import {name!r}: {one_line(error)}"
        ) from error
    return found


def one_line(error: Exception) -> str:
    """An error of other code: its class and the first line of its message."""
    reason = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {reason}"


def accepted(
    function: Callable[..., Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Selects the keyword arguments that a function accepts."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(options)
    names = {
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    return {name: value for name, value in options.items() if name in names}


def setting(
    default: Any, *, allowed: Collection | Range | None = None, doc: str
) -> Any:
    """A dataclass field with allowed values and a description.

    Args:
        default: the default value; the only mutable one is an empty mapping.
        allowed: a `Range`, or the collection of permitted values; None allows all
            of the field's type. Each entry of a tuple must be allowed.
        doc: a sentence with meaning and unit, for the reference documentation.
    """
    metadata = {"allowed": allowed, "doc": doc}
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _describe(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_describe(arm) for arm in typing.get_args(hint))
    if hint is types.NoneType:
        return "None"
    if typing.get_origin(hint) is Mapping:
        return "a section"
    return str(hint) if typing.get_origin(hint) else hint.__name__


def _coerce(value: Any, hint: Any) -> Any:
    """The value converted to the hinted type without loss; TypeError otherwise."""
    if isinstance(hint, types.UnionType):
        for arm in typing.get_args(hint):
            try:
                return _coerce(value, arm)
            except TypeError:
                continue
        raise TypeError
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple | list):
            raise TypeError
        arms = typing.get_args(hint)
        if arms[-1] is Ellipsis:
            return tuple(_coerce(entry, arms[0]) for entry in value)
        if len(value) != len(arms):
            raise TypeError
        return tuple(_coerce(v, arm) for v, arm in zip(value, arms, strict=True))
    if typing.get_origin(hint) is Mapping:
        if not isinstance(value, Mapping):
            raise TypeError
        return dict(value)
    if hint is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise TypeError from None
    if type(value) is not hint:
        raise TypeError
    return value


def _check_allowed(value: Any, allowed: Collection | Range | None, name: str) -> None:
    if allowed is None or value is None:
        return
    for entry in value if isinstance(value, tuple) else (value,):
        if entry not in allowed:
            if isinstance(allowed, Range):
                expected = str(allowed)
            else:
                expected = "one of " + ", ".join(map(str, allowed))
            raise ConfigError(f"{name}: expected {expected}, got {value!r}")


def validate(instance: Any) -> None:
    """Checks every field's type and range; an integer for a float becomes one.

    Raises:
        ConfigError: values do not fit; each message names a field.
    """
    with Conflicts() as found:
        for field in dataclasses.fields(instance):
            if "allowed" not in field.metadata:
                continue  # a nested section has checked itself
            with found.noting():
                value = _fitting(type(instance), field, getattr(instance, field.name))
                object.__setattr__(instance, field.name, value)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Types of the fields of a class; cached, because their evaluation is slow."""
    return typing.get_type_hints(cls)


def _fitting(cls: type, field: dataclasses.Field, value: Any) -> Any:
    """The value converted to the type of the field; ConfigError if it does not fit."""
    hint = _hints(cls)[field.name]
    try:
        value = _coerce(value, hint)
    except TypeError:
        raise ConfigError(
            f"{field.name}: expected {_describe(hint)}, got {value!r}"
        ) from None
    _check_allowed(value, field.metadata["allowed"], field.name)
    return value


def require(condition: bool, message: str | Callable[[], str]) -> None:
    """Raises ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message if isinstance(message, str) else message())


def build(cls: type[T], values: Mapping[str, Any], path: str = "config") -> T:
    """Makes a dataclass from nested mappings.

    Args:
        cls: a dataclass whose fields are settings or nested dataclasses.
        values: by field name; absent fields keep their defaults.
        path: how messages call this mapping.

    Raises:
        ConfigError: unknown keys (the nearest known ones are offered), sections that
            are no mappings, and values that the sections refuse, all of them. What
            fields may not be together is judged where each alone may be.
    """
    with Conflicts() as found:
        arguments = {}
        for key, value in values.items():
            with found.noting():
                arguments[key] = _argument(cls, key, value, path)
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise error.renamed(lambda message: f"{path}.{message}") from None


def _argument(cls: type, key: str, value: Any, path: str) -> Any:
    """The value of a field, converted and checked."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if key not in fields:
        near = difflib.get_close_matches(str(key), fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(fields)}"
        raise ConfigError(f"{path}.{key}: no such key; {hint}")
    section = _hints(cls)[key]
    if isinstance(section, type) and dataclasses.is_dataclass(section):
        if isinstance(value, section):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}.{key}: expected a section, got {value!r}")
        return build(section, value, f"{path}.{key}")
    if "allowed" not in fields[key].metadata:
        return value
    try:
        return _fitting(cls, fields[key], value)
    except ConfigError as error:
        raise error.renamed(lambda message: f"{path}.{message}") from None


def flatten(values: Any, path: str = "") -> dict[str, Any]:
    """Flattens nested mappings to one with dotted keys."""
    if not isinstance(values, dict):
        return {path: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{path}.{key}" if path else key)
    return flat
