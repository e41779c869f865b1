"""Public names that are imported when they are first used."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attach(
    package: str, homes: Mapping[str, Sequence[str]], *, modules: Sequence[str] = ()
) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose parts few need all of.

    Args:
        package: its name.
        homes: module of the package -> the names that it brings.
        modules: modules that are public themselves.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name in home_of:
            return getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
