"""What is imported, and installed, only for those who need it."""

import configparser
import pathlib
import re
import subprocess
import sys

import pytest

from caco_jax import _extras
from caco_jax.data.sources import load
from caco_jax.schema import UserError

ROOT = pathlib.Path(__file__).parents[1]

EVERY_MODULE = """
import importlib, pkgutil, sys

class Hidden:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
import caco_jax
names = [found.name for found in pkgutil.walk_packages(caco_jax.__path__, "caco_jax.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""

ANSWERS = """
import contextlib, io, sys
from caco_jax.programs import start

for program in sys.argv[1:]:
    for word, status in (("--help", 0), ("--no_such_flag", 2)):
        sys.argv = [program, word]
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()) as said,
                contextlib.redirect_stderr(said),
            ):
                start(program)
        except SystemExit as left:
            assert left.code == status, program
        assert ("usage: " if status == 0 else "error: ") in said.getvalue(), program
print(*sys.modules)
"""


def python(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_is_imported_without_what_few_need():
    optional = (
        *_extras._PACKAGES,
        "array_record",
        "dm_pix",
        "matplotlib",
        "sklearn",
        "tensorboardX",
        "tensorflow_datasets",
        "tqdm",
    )
    assert int(python(EVERY_MODULE, *optional)) > 100


def test_help_and_a_wrong_flag_import_nothing_that_takes_time():
    faces = [file.stem for file in (ROOT / "experiments").glob("[!_]*.py")]
    imported = python(ANSWERS, *faces).split()
    assert "argparse" in imported
    assert not {"jax", "numpy", "ml_collections"} & set(imported)


@pytest.mark.parametrize("module", sorted(_extras._PACKAGES))
def test_a_missing_package_is_a_line_that_names_its_extra(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as refused:
        _extras.require_package(module, purpose="--flag")
    package, extra = re.fullmatch(
        r"--flag: expected the package (\S+), which is not installed; "
        r"pip install 'caco_jax\[(\w+)\]'",
        str(refused.value),
    ).groups()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options.extras_require"][extra].split()
    assert any(line.startswith(f"{package}>=") for line in listed)
    assert f"\n{package}>=" not in setup["options"]["install_requires"]


def test_a_package_that_misses_something_itself_says_so(monkeypatch, tmp_path):
    (tmp_path / "wandb.py").write_text("import no_such_module_of_wandb")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_wandb"):
        _extras.require_package("wandb", purpose="--wandb")


def test_a_folder_is_refused_before_anything_is_read(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        UserError, match=r"^reading image files: expected the package open"
    ):
        load(f"folder:{tmp_path}")
