"""Hooks of mkdocs: reference pages generated from the code, and formulas as MathML.

A page says ``<!-- generated: NAME -->`` where `GENERATED` or `modules` puts text.
"""

import ast
import contextlib
import dataclasses
import html
import inspect
import io
import os
import pathlib
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

from caco_jax import schema
from caco_jax.config.encoders import ViTOptions
from caco_jax.config.origins import Origin, origins, strength
from caco_jax.config.recipe import recipes
from caco_jax.config.sections import ExperimentConfig, default_config
from caco_jax.data.views import VIEWS
from caco_jax.methods.registry import METHODS
from caco_jax.nets import VITS
from caco_jax.optim.settings import OptimizerConfig
from caco_jax.programs import cli
from caco_jax.programs.flags import parser_of
from caco_jax.runs.alarms import ALARMS

MARKER = re.compile(r"<!-- generated: ([\w. -]+?) -->")
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)
ROOT = pathlib.Path(__file__).parents[1]
HELP_COLUMNS = "80"
API = "reference/api"
MODULE_PAGE = """---
title: {name}
---

::: {name}
    options:
      heading_level: 1
"""
# Modules that are shown with a package without being in its folder.
NEIGHBOURS = {"caco_jax.config": {"caco_jax.schema": "caco_jax/schema.py"}}


# Hooks that mkdocs calls.


def on_files(files: Any, config: Any) -> Any:
    """The site's files with a page for every public module."""
    from mkdocs.structure.files import File

    for path, text in module_pages():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the markers of a page."""
    return MARKER.sub(lambda found: generated(found[1]), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Converts the formulas of a page to MathML, which needs no script."""
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    display = "block" if found[1] == "div" else "inline"
    formula = convert(html.unescape(found[2]), display=display)
    if "\\" in formula:
        raise ValueError(f"a formula is not understood: {found[2]}")
    # Without this the first bar of a norm would be stretched and the second not.
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


@dataclasses.dataclass(frozen=True)
class Section:
    """A table of the reference.

    Attributes:
        title: its heading, which also begins the anchors of its rows.
        what: a line about it.
        fields: the dataclass that checks its values.
        prefix: what its keys begin with, dot included.
        defaults: by dotted key, as text, those that may not be the dataclass's own.
    """

    title: str
    what: str
    fields: type
    prefix: str
    defaults: Mapping[str, str] = dataclasses.field(default_factory=dict)


def config_reference() -> str:
    """Every field with its type, range, default and meaning, a table a section."""
    return "\n\n".join(
        f"## {section.title}\n\n{section.what}\n\n{_table(section)}"
        for section in sections()
    )


def sections() -> Iterator[Section]:
    """Every section of a configuration."""
    for name, (settings, _) in METHODS.items():
        yield Section(f"method: {name}", _first_line(settings), settings, "method.")
    hints = typing.get_type_hints(ExperimentConfig)
    for field in dataclasses.fields(ExperimentConfig):
        fields = hints[field.name]
        if not dataclasses.is_dataclass(fields):
            continue
        yield Section(field.name, _first_line(fields), fields, f"{field.name}.")
        if field.name == "data":
            yield from view_sections()
        if field.name == "encoder":
            yield Section(
                f"encoder.options: {ViTOptions.__name__}",
                f"{_first_line(ViTOptions)} For {_codes(list(VITS))}.",
                ViTOptions,
                "encoder.options.",
            )
        if field.name == "optimizer":
            yield from player_sections()
    yield Section("The rest", "Keys without a section.", ExperimentConfig, "")


def view_sections() -> Iterator[Section]:
    """The fields of each kind of view: keys of the open section ``data.view``."""
    names: dict[type, list[str]] = {}
    for name, make in VIEWS.items():
        for kind in {type(view) for view in make().views}:
            names.setdefault(kind, []).append(name)
    for kind, found in sorted(names.items(), key=lambda pair: pair[0].__name__):
        what = (
            f"{_first_line(kind)} For `data.views` {_codes(found)}, which may have "
            "other defaults. `data.view.2.KEY` sets the second view only."
        )
        what += "".join(
            f" `{name}` also takes {_codes(own)}."
            for name in found
            if (own := _own_arguments(name, kind))
        )
        yield Section(f"data.view: {kind.__name__}", what, kind, "data.view.")


def _own_arguments(name: str, kind: type) -> list[str]:
    """What views of a name take beside the fields of their kind."""
    fields = {field.name for field in dataclasses.fields(kind)}
    return [
        parameter.name
        for parameter in inspect.signature(VIEWS[name]).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in fields
    ]


def player_sections() -> Iterator[Section]:
    """The optimisers of the players beside the encoder, by whose they are."""
    owners: dict[str, dict[str, dict[str, Any]]] = {}  # section, method, its values
    for method in METHODS:
        for key, values in default_config(method).to_dict().items():
            if key.endswith("_optimizer"):
                flat = schema.flatten(values, key)
                owners.setdefault(key, {})[method] = flat
    for key, by_method in owners.items():
        what = f"{_first_line(OptimizerConfig)} For {_codes(list(by_method))} only."
        defaults = {
            name: _several({method: flat[name] for method, flat in by_method.items()})
            for name in next(iter(by_method.values()))
        }
        yield Section(key, what, OptimizerConfig, f"{key}.", defaults)


def _several(values: dict[str, Any]) -> str:
    """One value where all methods have the same, else each method's."""
    first, *others = values.values()
    if all(other == first for other in others):
        return f"`{first!r}`"
    return ", ".join(f"{method}: `{value!r}`" for method, value in values.items())


def _codes(words: list[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _first_line(described: type) -> str:
    return (described.__doc__ or "").splitlines()[0]


def _table(section: Section) -> str:
    hints = typing.get_type_hints(section.fields)
    if not hints:
        return "It has no fields."
    lines = ["| key | type | range | default | meaning |", "|---|---|---|---|---|"]
    for field in dataclasses.fields(section.fields):
        if "doc" not in field.metadata:
            continue  # a section of its own
        key = f"{section.prefix}{field.name}"
        anchor = f"{section.title.replace(': ', '-').replace(' ', '-').lower()}"
        cells = [
            f'<span id="{anchor}.{field.name}"></span>`{key}`',
            _type(hints[field.name]),
            _range(field.metadata["allowed"]),
            section.defaults.get(key, f"`{_default(field)!r}`"),
            _plain(field.metadata["doc"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _default(field: dataclasses.Field) -> Any:
    """The default of a field, which may be one that is made anew."""
    if field.default is not dataclasses.MISSING:
        return field.default
    assert field.default_factory is not dataclasses.MISSING
    return field.default_factory()


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is Mapping:
        return "a section"
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else ""
    return (name or str(hint)).replace(" | ", " or ")


def _range(allowed: Any) -> str:
    if allowed is None:
        return ""
    if isinstance(allowed, schema.Range):
        interval = str(allowed).removeprefix("a number in ")
        return f"`{interval.replace(f'{allowed.high:g}', f'{allowed.high:.15g}')}`"
    if isinstance(allowed, schema.OneOf):
        return f"{_codes(list(allowed.table))} or an import path"
    return _codes([str(value) for value in allowed])


def _plain(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|")


# The commands.


def command_reference() -> str:
    """Every program with its name and its help."""
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
    name = " ".join(words)
    texts = [help_of(name, program)]
    actions = re.search(r"^ *\{([\w,-]+)\}", texts[0], re.MULTILINE)
    if "positional arguments:" in texts[0] and actions:
        texts += [help_of(name, program, word) for word in actions[1].split(",")]
    blocks = "\n\n".join(f"```text\n{text.rstrip()}\n```" for text in texts)
    return f"## {name}\n\n{blocks}"


def help_of(name: str, program: str, *words: str) -> str:
    """What a program prints for ``--help``.

    Args:
        name: what stands behind ``caco``.
        program: its module.
        *words: before ``--help``.
    """
    out = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [f"caco {name}", *words, "--help"]),
        mock.patch.dict(os.environ, {"COLUMNS": HELP_COLUMNS}),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        parser_of(program).parse_args()
    return out.getvalue()


# The recipes.


def recipe_reference() -> str:
    """Every recipe with what its first lines say."""
    lines = ["| recipe | what | expected | variants |", "|---|---|---|---|"]
    for name, file in recipes().items():
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        what = f"{text.splitlines()[0]} {_entry(text, 'Paper')}"
        cells = [f"`{name}`", what, _entry(text, "Expected"), _entry(text, "Variants")]
        lines.append("| " + " | ".join(_plain(cell) for cell in cells) + " |")
    return "\n".join(lines)


def recipe_sources() -> str:
    """For each recipe its settings that are not defaults, with their sources."""
    return "\n\n".join(_settings(name) for name in recipes())


def _settings(name: str) -> str:
    lines = ["| key | value | default | source |", "|---|---|---|---|"]
    lines += [_settings_row(origin) for origin in origins(name)]
    moved = ", ".join(f"{level:.1f}" for level in strength(name))
    clae = f"CLAE moves each channel's values by {moved} of 255 grey levels."
    return "\n".join([f"## {name}", "", *([clae, ""] if moved else []), *lines])


def _settings_row(origin: Origin) -> str:
    values = (f"`{value}`" for value in (origin.value, origin.default))
    cells = [f"`{origin.key}`", *values, _plain(origin.source)]
    return "| " + " | ".join(cells) + " |"


def _entry(text: str, key: str) -> str:
    """The lines of a recipe's first words that a key has."""
    found = re.search(rf"^{key}: +(.*(?:\n {{5,}}.*)*)", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


# The API.


def modules(package: str) -> str:
    """The public modules of a package as a table that links to their pages."""
    lines = ["| module | what |", "|---|---|"]
    for name, file in modules_of(package).items():
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        link = pathlib.PurePath(module_page(name)).name
        short = name.removeprefix("caco_jax.")
        lines.append(f"| [`{short}`]({link}) | {_plain(text.splitlines()[0])} |")
    return "\n".join(lines)


def modules_of(package: str) -> dict[str, pathlib.Path]:
    """The files of a package's public modules by dotted name, and its neighbours'."""
    folder = ROOT / package.replace(".", "/")
    found = {f"{package}.{f.stem}": f for f in sorted(folder.glob("[!_]*.py"))}
    return found | {name: ROOT / f for name, f in NEIGHBOURS.get(package, {}).items()}


def module_page(name: str) -> str:
    """The page of a module, as a path in the site."""
    return f"{API}/{name.removeprefix('caco_jax.')}.md"


def module_pages() -> Iterator[tuple[str, str]]:
    """(path in the site, text) of the page of every public module."""
    for page in sorted((ROOT / "docs" / API).glob("*.md")):
        for found in MARKER.finditer(page.read_text()):
            for name in modules_of(found[1].removeprefix("modules of ")):
                yield module_page(name), MODULE_PAGE.format(name=name)


# The alarms.


def alarm_reference() -> str:
    """Every alarm of a run with its meaning and remedy."""
    lines = ["| alarm | what it means | what to do |", "|---|---|---|"]
    for name, alarm in ALARMS.items():
        remedy = re.sub(r"\b[a-z_]+\.[a-z_]+\b", r"`\g<0>`", alarm.remedy)
        lines.append(f"| `{name}` | {alarm.meaning} | {remedy} |")
    return "\n".join(lines)


GENERATED: dict[str, Callable[[], str]] = {
    "alarms": alarm_reference,
    "configuration": config_reference,
    "commands": command_reference,
    "recipes": recipe_reference,
    "recipe sources": recipe_sources,
}
