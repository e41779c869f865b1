"""Names of slices: what is taken, and what is said otherwise. No libtpu is needed."""

import importlib.util
import os
from types import SimpleNamespace

import jax
import pytest
from jax.experimental import topologies

from caco_jax.pod import topology
from caco_jax.schema import UserError


@pytest.fixture
def libtpu(monkeypatch):
    """A libtpu that knows all v5e slices up to 8x8, and v4:2x2x1; it ends at zeros."""
    asked = []

    def describe(*, platform, topology_name, **options):
        assert platform == "tpu"
        asked.append((topology_name, options))
        chip, _, shape = topology_name.partition(":")
        sides = [int(side) for side in shape.split("x")]
        assert 0 not in sides, "libtpu would have ended the process"
        if (chip == "v5e" and max(sides) <= 8) or topology_name == "v4:2x2x1":
            count = jax.numpy.prod(jax.numpy.array(sides)).item()
            return SimpleNamespace(devices=[object()] * count)
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no such slice")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(topologies, "get_topology_desc", describe)
    for variable in topology._ENVIRONMENT:
        monkeypatch.delenv(variable, raising=False)
    return asked


def refusal(name, **flag):
    with pytest.raises(UserError) as caught:
        topology.open_slice(name, **flag)
    return str(caught.value)


def test_a_slice(libtpu):
    where = topology.open_slice("v5e:4x8")
    assert (where.name, where.shape) == ("v5e:4x8", (4, 8))
    assert (where.chip.name, len(where.devices)) == ("v5e", 32)
    assert libtpu == [("v5e:4x8", {})]


def test_a_chip_of_two_cores_is_one_device(libtpu):
    topology.open_slice("v4:2x2x1")
    assert libtpu == [("v4:2x2x1", {"chip_config_name": "megacore"})]


NO_SLICES = [
    *("", ":4x4", "v9:4x4", "v5e", "v5e:", "v5e:4", "v5e:4x4x4", "v5e:0x4", "v5e:4x-4"),
    *("v5e:04x4", "v5e:3x 4", "v5e:4X4", "v5e:4x4:", "v5e:4x4_twisted", "v5e:999x1"),
    *("v5e:16x16", "v4:2x2"),
]


@pytest.mark.parametrize("name", NO_SLICES)
def test_an_unknown_slice_names_those_that_are_known(libtpu, name):
    known = "v4:2x2x1, v5e:1x1, v5e:2x2, v5e:2x4, v5e:4x4, v5e:4x8, v5e:8x8"
    assert (
        refusal(name)
        == f"--topology: expected CHIP:SHAPE, one of {known}; got {name!r}"
    )


def test_the_flag_that_was_used_is_named(libtpu):
    assert refusal("v1:1", flag="--sweep_topologies").startswith(
        "--sweep_topologies: expected CHIP:SHAPE"
    )


def test_libtpu_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refusal("v5e:4x4") == (
        "--topology: expected libtpu, which compiles for TPUs, got an environment "
        "without it; pip install 'caco_jax[tpu]'"
    )


def test_other_failures_are_not_hidden(libtpu, monkeypatch):
    def fail(**_):
        raise jax.errors.JaxRuntimeError("ABORTED: libtpu is broken")

    monkeypatch.setattr(topologies, "get_topology_desc", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="libtpu is broken"):
        topology.open_slice("v5e:4x4")


def test_what_the_user_set_stays(libtpu, monkeypatch):
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v4-8")
    topology.prepare_environment()
    assert os.environ["TPU_ACCELERATOR_TYPE"] == "v4-8"
    assert os.environ["TPU_SKIP_MDS_QUERY"] == "1"


@pytest.mark.parametrize("chip", topology.CHIPS.values(), ids=topology.CHIPS)
def test_shapes_have_the_axes_of_their_chip(chip):
    axes = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}[chip.name]
    assert all(shape.count("x") == axes - 1 for shape in chip.shapes)
