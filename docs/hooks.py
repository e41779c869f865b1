"""What mkdocs generates: configuration, commands and recipes from the code; formulas.

A page says ``<!-- generated: NAME -->`` where `GENERATED` or `modules` puts text.
"""

import ast
import contextlib
import dataclasses
import html
import importlib
import io
import os
import pathlib
import re
import sys
import typing
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from caco_jax.config import sections, recipe
from caco_jax import schema
from caco_jax.methods.registry import METHODS
from caco_jax.programs import cli

MARKER = re.compile(r"<!-- generated: ([\w. -]+?) -->")
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)
ROOT = pathlib.Path(__file__).parents[1]
HELP_COLUMNS = "80"


# What mkdocs calls.


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with its markers replaced."""
    return MARKER.sub(lambda found: generated(found[1]), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """A page with its formulas as MathML: no script, nothing to load."""
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    display = "block" if found[1] == "div" else "inline"
    formula = convert(html.unescape(found[2]), display=display)
    if "\\" in formula:
        raise ValueError(f"a formula is not understood: {found[2]}")
    # A norm's bars stand beside a letter: the first would grow, the second not.
    formula = formula.replace(
        "<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>'
    )
    gap = '<mspace width="0.167em" />'
    return re.sub("<mi>(log|ln)</mi>", rf"{gap}\g<0>{gap}", formula)


def generated(name: str) -> str:
    """The text of a marker.

    Args:
        name: a key of `GENERATED`, or "modules of caco_jax.PACKAGE".

    Raises:
        KeyError: there is no such text.
    """
    if name.startswith("modules of "):
        return modules(name.removeprefix("modules of "))
    return GENERATED[name]()


# The configuration.


def sections() -> Iterator[tuple[str, type, str]]:
    """(title, dataclass, dotted prefix) of every section of a configuration."""
    for name, (config_class, _) in METHODS.items():
        yield f"method: {name}", config_class, "method."
    hints = typing.get_type_hints(config.ExperimentConfig)
    for field in dataclasses.fields(config.ExperimentConfig):
        arms = [hints[field.name], *typing.get_args(hints[field.name])]
        found = [arm for arm in arms if dataclasses.is_dataclass(arm)]
        if found:
            yield field.name, typing.cast(type, found[0]), f"{field.name}."
    yield "The rest", config.ExperimentConfig, ""


def config_reference() -> str:
    """Every field with its type, range, default and meaning, a table a section."""
    return "\n\n".join(
        f"## {title}\n\n{_summary(section)}\n\n{_table(section, prefix, title)}"
        for title, section, prefix in sections()
    )


def _summary(section: type) -> str:
    if section is config.ExperimentConfig:
        return "Keys without a section."
    return (section.__doc__ or "").splitlines()[0]


def _table(section: type, prefix: str, title: str) -> str:
    hints = typing.get_type_hints(section)
    lines = ["| key | type | range | default | meaning |", "|---|---|---|---|---|"]
    for field in dataclasses.fields(section):
        if "doc" not in field.metadata:
            continue  # a section of its own
        anchor = f"{title.replace(': ', '-').replace(' ', '-').lower()}.{field.name}"
        default = _defaults(title, prefix, field)
        cells = [
            f'<span id="{anchor}"></span>`{prefix}{field.name}`',
            _type(hints[field.name]),
            _range(field.metadata["allowed"]),
            f"`{default!r}`",
            _plain(field.metadata["doc"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _defaults(title: str, prefix: str, field: dataclasses.Field) -> Any:
    """The default that a recipe starts from: the bank's optimiser has its own."""
    method = title.removeprefix("method: ") if prefix == "method." else "caco"
    start = config.flatten(config.default_config(method).to_dict())
    return start[prefix + field.name]


def _type(hint: Any) -> str:
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else ""
    return (name or str(hint)).replace(" | ", " or ")


def _range(allowed: Any) -> str:
    if allowed is None:
        return ""
    if isinstance(allowed, schema.Range):
        interval = str(allowed).removeprefix("a number in ")
        return f"`{interval.replace(f'{allowed.high:g}', f'{allowed.high:.15g}')}`"
    return ", ".join(f"`{value}`" for value in allowed)


def _plain(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|")


# The commands.


def command_reference() -> str:
    """Every program with its two names and its help."""
    return "\n\n".join(
        _command(words, program) for words, program in programs(cli.PROGRAMS)
    )


def programs(
    found: dict[str, Any], words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """(words after ``caco``, module) of every program."""
    for word, inner in found.items():
        if isinstance(inner, dict):
            yield from programs(inner, (*words, word))
        else:
            yield (*words, word), inner


def _command(words: tuple[str, ...], program: str) -> str:
    texts = [help_of(program)]
    actions = re.search(r"^ *\{([\w,-]+)\}", texts[0], re.MULTILINE)
    if "positional arguments:" in texts[0] and actions:
        texts += [help_of(program, action) for action in actions[1].split(",")]
    blocks = "\n\n".join(f"```text\n{text.rstrip()}\n```" for text in texts)
    name = " ".join(words)
    return (
        f"## {name}\n\n`caco {name}`, or `python -m experiments.{program}`.\n\n{blocks}"
    )


def help_of(program: str, *words: str) -> str:
    """What a program prints for ``--help``."""
    main = importlib.import_module(f"caco_jax.programs.{program}").main
    name = f"python -m experiments.{program}"
    out = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [name, *words, "--help"]),
        mock.patch.dict(os.environ, {"COLUMNS": HELP_COLUMNS}),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        main()
    return out.getvalue()


# The recipes.


def recipe_reference() -> str:
    """Every recipe with what its first lines say."""
    lines = ["| recipe | what | expected | variants |", "|---|---|---|---|"]
    for name, file in recipe.recipes().items():
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        what = f"{text.splitlines()[0]} {_entry(text, 'Paper')}"
        cells = [f"`{name}`", what, _entry(text, "Expected"), _entry(text, "Variants")]
        lines.append("| " + " | ".join(_plain(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _entry(text: str, key: str) -> str:
    """The lines of a recipe's first words that a key has."""
    found = re.search(rf"^{key}: +(.*(?:\n {{5,}}.*)*)", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


# The API.


def modules(package: str) -> str:
    """The lines by which mkdocstrings finds every public module of a package."""
    folder = ROOT / package.replace(".", "/")
    names = sorted(file.stem for file in folder.glob("[!_]*.py"))
    return "\n\n".join(f"::: {package}.{name}" for name in names)


GENERATED: dict[str, Callable[[], str]] = {
    "configuration": config_reference,
    "commands": command_reference,
    "recipes": recipe_reference,
}
