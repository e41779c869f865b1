"""Lists the recipes, or the source of each setting of one: caco recipes [NAME].

Without a name it lists every recipe with its variants. With a name it lists each
setting that differs from the library's default, with that default and the paper or
released code that states it.
"""

import ast
import runpy
import textwrap

from caco_jax.config.origins import Origin, origins, strength
from caco_jax.config.recipe import recipes, rules_of
from caco_jax.programs.flags import parser_of
from caco_jax.programs.parser import parse

LONGEST = 40  # longest printed value, in characters


def main() -> None:
    """Parses flags and prints."""
    flags, _ = parse(parser_of("recipes"))
    print(one(flags.recipe) if flags.recipe else overview())


def overview() -> str:
    """A line for each recipe, and its variants."""
    lines = []
    for name, file in recipes().items():
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        variants = ", ".join(runpy.run_path(str(file)).get("VARIANTS", {}))
        lines.append(f"{name:24}{text.splitlines()[0]}")
        lines += [f"{'':24}variants: {variants}"] if variants else []
    return "\n".join(
        [*lines, "", "caco recipes NAME lists the sources of its settings"]
    )


def one(recipe: str) -> str:
    """The settings of a recipe as a table.

    Raises:
        ConfigError: there is no such recipe, or a setting has no source.
    """
    rows = [("key", "value", "default", "source"), *map(_cells, origins(recipe))]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join(
            [*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), last]
        )
        for *row, last in rows
    ]
    fitted = rules_of(recipe)
    if fitted:
        lines += ["", "chosen for the images and the machine, unless you set them:"]
        lines += textwrap.wrap(", ".join(fitted), 80)
    moved = strength(recipe)
    if moved:
        levels = ", ".join(f"{level:.1f}" for level in moved)
        lines += ["", f"CLAE moves values by {levels} of 255 grey levels (by channel)"]
    return "\n".join(lines)


def _cells(origin: Origin) -> tuple[str, str, str, str]:
    value, default = (_short(entry) for entry in (origin.value, origin.default))
    return origin.key, value, default, origin.source


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
