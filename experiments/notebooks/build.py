"""Builds executed notebooks from scripts: python -m experiments.notebooks.build.

The script is Python in cells: its docstring is the first text cell, "# %%" starts a
code cell and "# %% [markdown]" a text cell. Printed text, and the figure or value of a
last expression, become the outputs. Jupyter can open the result, and is not needed
here.
"""

import ast
import base64
import contextlib
import io
import json
import pathlib
import re
from typing import Any

from caco_jax.programs.command import run
from caco_jax.programs.parser import Parser

HERE = pathlib.Path(__file__).parent
_BORDER = re.compile(r"^# %%(?P<text> \[markdown\])?\n", re.MULTILINE)


def split_cells(script: str) -> list[tuple[str, str]]:
    """The cells of a script: ("markdown" or "code", its source)."""
    title = ast.get_docstring(ast.parse(script)) or ""
    cells = [("markdown", title)]
    borders = list(_BORDER.finditer(script))
    ends = [border.start() for border in borders[1:]] + [len(script)]
    for border, end in zip(borders, ends, strict=True):
        source = script[border.end() : end].strip()
        if border["text"]:
            lines = (line.removeprefix("#") for line in source.splitlines())
            cells.append(
                ("markdown", "\n".join(line.removeprefix(" ") for line in lines))
            )
        else:
            cells.append(("code", source))
    return cells


def execute(source: str, names: dict[str, Any], *, file: str) -> list[dict[str, Any]]:
    """Runs a cell in a namespace; returns its outputs in the notebook format."""
    body = ast.parse(source, file).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), file, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), file, "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = _lines(printed.getvalue())
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        outputs.append(
            {"output_type": "display_data", "metadata": {}, "data": _shown(value)}
        )
    return outputs


def _shown(value: Any) -> dict[str, Any]:
    picture = getattr(value, "_repr_png_", None)
    if picture is None:
        return {"text/plain": _lines(repr(value))}
    return {"image/png": base64.b64encode(picture()).decode()}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def build(script: pathlib.Path) -> dict[str, Any]:
    """The executed notebook of a script, in Jupyter's format 4.5."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells: list[dict[str, Any]] = []
    for i, (kind, source) in enumerate(split_cells(script.read_text())):
        cell: dict[str, Any] = {"id": f"cell-{i}", "cell_type": kind, "metadata": {}}
        cell["source"] = _lines(source)
        if kind == "code":
            cell["outputs"] = execute(source, names, file=f"{script.name}, cell {i}")
            cell["execution_count"] = 1 + sum(c["cell_type"] == "code" for c in cells)
        cells.append(cell)
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}


def main() -> None:
    """Parses flags and runs."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--script", default=str(HERE / "tour.py"), help="Script to build from."
    )
    parser.add_argument("--out", help="Notebook to write (default: beside the script).")
    flags = parser.parse_args()
    script = pathlib.Path(flags.script)
    out = pathlib.Path(flags.out or script.with_suffix(".ipynb"))
    out.write_text(json.dumps(build(script), indent=1, ensure_ascii=False) + "\n")
    print(f"{script} ran; {out} shows it")


if __name__ == "__main__":
    run(main)
