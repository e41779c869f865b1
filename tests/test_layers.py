"""The order of the layers: nothing imports what lies above it."""

import ast
import functools
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "caco_jax"

# From below: each may import those of the lines before it, of its own line none but
# itself. `caco_jax` itself is what users import: everything, when it is asked for.
LAYERS = [
    {"schema", "_lazy", "_process", "_paths", "_recipes"},
    {"_extras", "losses"},
    {"nets", "optim"},
    {"methods", "data"},
    {"training", "evaluation"},
    {"runs"},
    {"config"},
    {"interop", "pod", "analysis"},
    {"report"},
    {"programs"},
]
# The losses are for anybody's training: pure functions that need nothing of ours.
ALONE = {"losses", "schema", "_lazy", "_process", "_paths", "_recipes"}
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}


def part_of(file):
    """The folder or the module right below the package that a file is of."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file):
    """What a file imports of the package, in functions too, as dotted paths."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            module = node.module or ""
            # The public names of the package are parts of it, or stand for them.
            names = [f"{module}.{alias.name}" for alias in node.names]
            found += names if module == "caco_jax" else [module]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [path for path in found if path.split(".")[0] == "caco_jax"]


@functools.cache
def edges():
    """(importing file, importing part, imported part) of the whole package."""
    return [
        (str(file.relative_to(PACKAGE)), part_of(file), path.split(".")[1])
        for file in sorted(PACKAGE.rglob("*.py"))
        if file != PACKAGE / "__init__.py"
        for path in imported(file)
        if path != "caco_jax" and path != "caco_jax.__version__"
    ]


def test_every_part_has_its_layer():
    parts = {part_of(file) for file in PACKAGE.rglob("*.py")} - {"__init__"}
    assert parts == HEIGHT.keys()
    assert {imported for _, _, imported in edges()} <= HEIGHT.keys()


@pytest.mark.parametrize("part", sorted(HEIGHT))
def test_nothing_imports_what_lies_above_or_beside_it(part):
    wrong = [
        f"{file} imports {other}"
        for file, importing, other in edges()
        if importing == part != other and HEIGHT[other] >= HEIGHT[part]
    ]
    assert not wrong


@pytest.mark.parametrize("part", sorted(ALONE))
def test_what_stands_alone_imports_nothing_of_ours(part):
    assert not [edge for edge in edges() if edge[1] == part != edge[2]]


def test_a_wrong_import_would_be_found(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "import numpy\n"
        "from caco_jax import losses\n"
        "def late():\n"
        "    import caco_jax.runs.fit\n"
        "    from caco_jax.config.build import build_run\n"
    )
    assert imported(file) == [
        "caco_jax.losses",
        "caco_jax.runs.fit",
        "caco_jax.config.build",
    ]
