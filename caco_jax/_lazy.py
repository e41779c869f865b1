"""Public names that are imported when they are first used."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attach(
    package: str, homes: Mapping[str, Sequence[str]], *, modules: Sequence[str] = ()
) -> Callable[[str], Any]:
    """Makes the ``__getattr__`` of a package whose names are imported on first use.

    Args:
        package: its name.
        homes: module of the package -> the public names that it defines.
        modules: public modules of the package.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name in home_of:
            return getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
