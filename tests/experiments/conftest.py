"""What the tests of commands share."""

import types

import pytest

from caco_jax.programs import pretrain
from tests.experiments.commands import CONFIG, TINY, call


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run that the pretraining command trained: where it is, and what was said."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    status, out, err = call(pretrain.main, CONFIG, f"--workdir={workdir}", *TINY)
    assert status == 0, err
    return types.SimpleNamespace(workdir=workdir, out=out, err=err)
