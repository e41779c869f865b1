"""What several tests of whole runs share."""

import pytest

from caco_jax.runs import pretraining
from caco_jax.training.sharding import make_mesh
from tests.runs import tiny


@pytest.fixture
def tiny_parts(devices, monkeypatch):
    """Runs have the tiny encoder, on one device."""
    monkeypatch.setattr(assemble, "make_encoder", lambda *_, **__: tiny.TinyEncoder())
    monkeypatch.setattr(assemble, "make_mesh", lambda: make_mesh(devices[:1]))
