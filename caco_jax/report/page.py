"""Renders a report as one self-contained HTML file."""

import html
import importlib.resources
import json
from typing import Any

_SCRIPTS = (
    "uplot.min.js",
    "elements.js",
    "curves.js",
    "tables.js",
    "maps.js",
    "pictures.js",
    "page.js",
)
_LICENCE = "uplot.LICENSE.txt"  # of what the page brings along
_STYLES = ("uplot.min.css", "page.css")


def render(values: dict[str, Any]) -> str:
    """Renders the result of `collect` as HTML.

    All that a person wrote goes in as JSON, in which no tag can begin, and reaches the
    page as text alone.
    """
    parts = {
        "TITLE": html.escape(f"{values['run']['name']}: report"),
        "STYLE": "\n".join(map(_asset, _STYLES)),
        "DATA": embedded(values),
        "SCRIPT": "\n".join([f"/*!\n{_asset(_LICENCE)}*/", *map(_asset, _SCRIPTS)]),
    }
    # Between marks, not by replacing them: what goes in may look like a mark.
    pieces = _asset("page.html").split("@@")
    return "".join(
        parts[piece] if number % 2 else piece for number, piece in enumerate(pieces)
    )


def embedded(values: Any) -> str:
    """Encodes a value as JSON that is safe inside a script element."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _asset(name: str) -> str:
    folder = importlib.resources.files("caco_jax.report") / "assets"
    return (folder / name).read_text(encoding="utf-8")
