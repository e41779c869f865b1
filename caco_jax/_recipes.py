"""The list of recipes. Help texts need it, so nothing here imports JAX."""

import pathlib


def recipes() -> dict[str, pathlib.Path]:
    """The recipes that come with the package, by name."""
    package = pathlib.Path(__file__).parent
    installed, checkout = package / "recipes", package.parent / "configs"
    files = (installed if installed.is_dir() else checkout).glob("[!_]*.py")
    return {file.stem: file for file in sorted(files)}
