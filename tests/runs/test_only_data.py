"""Configurations and checkpoints are data: no path leads out, no class is loaded."""

import os
import pathlib
import pickle
import sys

import jax
import pytest

from tests.runs.test_checkpoints import snapshot
from tests.runs.test_same_images import run_of, write_pictures

CHANGING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Audit:
    """What Python itself says that it does: a hook stays, so there is one."""

    def __init__(self):
        self.classes, self.changed, self.is_on = [], [], False
        sys.addaudithook(self._hear)

    def _hear(self, event, values):
        if not self.is_on:
            return
        if event == "pickle.find_class":
            self.classes.append(values)
        elif event in CHANGING or (event == "open" and values[2] & WRITING):
            self.changed.append(values[0])

    def __enter__(self):
        self.classes, self.changed, self.is_on = [], [], True
        return self

    def __exit__(self, *_):
        self.is_on = False


@pytest.fixture(scope="module")
def audit():
    return Audit()


def test_the_audit_hears(audit, tmp_path):
    with audit:
        pickle.loads(pickle.dumps(tmp_path))
        (tmp_path / "file").write_text("")
        (tmp_path / "file").read_text()
    assert audit.classes[0][0] == "pathlib"
    assert audit.changed == [str(tmp_path / "file")]


def test_a_run_writes_in_its_directory_alone_and_loads_no_class(audit, tmp_path):
    write_pictures(tmp_path / "data", seed=0)
    workdir = tmp_path / "runs" / "mine"
    before = snapshot(tmp_path / "data")
    leading_out = run_of(
        tmp_path / "data" / ".." / "data",
        data__source="folder:../data/pictures",
        data__workers=0,
        data__max_resident_bytes=0,
        training__epochs=2,
    )
    with audit:
        leading_out.fit(workdir)
        leading_out.fit(workdir)
        leading_out.load(workdir)
    assert audit.classes == []
    assert snapshot(tmp_path / "data") == before
    assert {path.name for path in tmp_path.iterdir()} == {"data", "runs"}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]
    # The compiler's cache and the files that never had a name are the process's own.
    own = (workdir, pathlib.Path(jax.config.jax_compilation_cache_dir), "/dev", "/proc")
    changed = [path for path in audit.changed if not isinstance(path, int)]
    assert any(pathlib.Path(path).is_relative_to(workdir) for path in changed)
    strangers = [
        path
        for path in changed
        if not any(pathlib.Path(os.fsdecode(path)).is_relative_to(p) for p in own)
    ]
    assert set(strangers) <= {str(tmp_path / "runs")}
