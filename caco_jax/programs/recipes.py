"""Lists the recipes, or the source of each setting of one: caco recipes [NAME].

Without a name it lists every recipe with its variants. With a name it lists each
setting that differs from the library's default, with that default and the paper or
released code that states it.
"""

import ast
import runpy
import textwrap
from typing import Any

from caco_jax.config.origins import Origin, origins, strength
from caco_jax.config.recipe import recipes, rules_of
from caco_jax.programs.command import print_json
from caco_jax.programs.flags import parser_of
from caco_jax.programs.parser import parse

LONGEST = 40  # longest printed value, in characters


def main() -> None:
    """Parses flags and prints."""
    flags, _ = parse(parser_of("recipes"))
    if flags.json:
        print_json(flags, settings(flags.recipe) if flags.recipe else listing())
    else:
        print(one(flags.recipe) if flags.recipe else overview())


def listing() -> list[dict[str, Any]]:
    """Every recipe's "name", first line ("what") and "variants"."""
    found = []
    for name, file in recipes().items():
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        variants = list(runpy.run_path(str(file)).get("VARIANTS", {}))
        what = text.splitlines()[0]
        found.append({"name": name, "what": what, "variants": variants})
    return found


def overview() -> str:
    """A line for each recipe, and its variants."""
    lines = []
    for row in listing():
        lines.append(f"{row['name']:24}{row['what']}")
        if row["variants"]:
            lines.append(f"{'':24}variants: {', '.join(row['variants'])}")
    return "\n".join(
        [*lines, "", "caco recipes NAME lists the sources of its settings"]
    )


def settings(recipe: str) -> dict[str, Any]:
    """The settings of a recipe with their sources, and what it chooses by itself."""
    return {
        "settings": [origin._asdict() for origin in origins(recipe)],
        "chosen": list(rules_of(recipe) or ()),
        "clae_grey_levels": list(strength(recipe)),
    }


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
