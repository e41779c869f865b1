"""Describes objects by plain values, to compare runs that were built in Python."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn

from caco_jax.nets.functions import name_of

_PLAIN = (bool, int, float, str, type(None))
_OF_FLAX = {"parent", "name"}


def describe(thing: Any) -> Any:
    """An object as JSON values: its fields, or its name.

    Dataclasses and modules become mappings of their fields, functions their names. Two
    objects with the same description may differ in values that a function has closed
    over.

    Args:
        thing: any object.
    """
    if isinstance(thing, _PLAIN):
        return thing
    if isinstance(thing, tuple | list) and not hasattr(thing, "_fields"):
        return [describe(entry) for entry in thing]
    if isinstance(thing, dict):
        return {str(key): describe(value) for key, value in thing.items()}
    if isinstance(thing, functools.partial):
        return {"function": describe(thing.func), **describe(thing.keywords)}
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        skipped = _OF_FLAX if isinstance(thing, nn.Module) else set()
        fields = {
            field.name: describe(getattr(thing, field.name))
            for field in dataclasses.fields(thing)
            if field.name not in skipped
        }
        return {"class": name_of(type(thing)), **fields}
    return name_of(thing)
