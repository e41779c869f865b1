"""The notebook: it runs, and what is committed is what its script says."""

import base64
import json
import pathlib
import re

import jax
import pytest
from PIL import Image

from experiments.notebooks import build

NOTEBOOKS = pathlib.Path(build.__file__).parent
SCRIPTS = sorted(
    path for path in NOTEBOOKS.glob("*.py") if path.stem not in ("__init__", "build")
)


@pytest.fixture
def precision():
    """Scripts may choose double precision: not for the tests after them."""
    yield
    jax.config.update("jax_enable_x64", False)


def test_a_script_becomes_cells():
    script = (
        '"""# Title.\n\nText.\n"""\n\n# %%\na = 1\n\n'
        "# %% [markdown]\n# ## Next\n#\n# more\n\n# %%\nprint(a)\n"
    )
    assert build.split_cells(script) == [
        ("markdown", "# Title.\n\nText."),
        ("code", "a = 1"),
        ("markdown", "## Next\n\nmore"),
        ("code", "print(a)"),
    ]


def test_a_cell_shows_what_it_prints_and_what_it_ends_in():
    names = {"image": Image.new("L", (3, 2))}
    assert build.execute("a = 5", names, file="f") == []
    (printed,) = build.execute("print(a)\nprint('b')", names, file="f")
    assert printed == {
        "output_type": "stream",
        "name": "stdout",
        "text": ["5\n", "b\n"],
    }
    (shown,) = build.execute("b = a + 1\n(a, b)", names, file="f")
    assert shown["data"] == {"text/plain": ["(5, 6)"]}
    (picture,) = build.execute("image", names, file="f")
    png = base64.b64decode(picture["data"]["image/png"])
    assert png.startswith(b"\x89PNG")


def test_a_cell_that_fails_says_where():
    with pytest.raises(ZeroDivisionError) as caught:
        build.execute("a = 1\nb = a / 0", {}, file="tour.py, cell 3")
    assert str(caught.traceback[-1].path) == "tour.py, cell 3"
    assert caught.traceback[-1].lineno == 1


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_committed_notebook_is_its_script_executed(script, precision):
    committed = json.loads(script.with_suffix(".ipynb").read_text())
    fresh = build.build(script)  # every claim in it is an assertion
    assert (committed["nbformat"], committed["nbformat_minor"]) == (4, 5)
    assert committed["metadata"] == fresh["metadata"]

    def outline(notebook):
        return [
            {
                **{key: value for key, value in cell.items() if key != "outputs"},
                "outputs": [sorted(o) for o in cell.get("outputs", [])],
            }
            for cell in notebook["cells"]
        ]

    assert outline(committed) == outline(fresh), (
        "run python -m experiments.notebooks.build and commit the notebook"
    )
    assert not re.search(r"/(home|root|tmp)/", json.dumps(committed))
