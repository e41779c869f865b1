"""The first lines of a run."""

import jax

from caco_jax.runs import pretraining
from caco_jax.runs.opening import opening_lines
from caco_jax.runs.workdir import Workdir
from tests.runs import tiny


def test_they_say_what_how_large_and_where(tmp_path):
    experiment = assemble.assemble(tiny.config())
    state = assemble.initial_state(experiment)
    encoder = sum(leaf.size for leaf in jax.tree.leaves(state.players["encoder"]))
    lines = opening_lines(experiment, Workdir(tmp_path / "run"))
    assert lines[0] == experiment.method.description
    assert f" with {encoder:,} parameters, on {experiment.mesh.size} x cpu" in lines[1]
    assert f"{experiment.steps_per_epoch:,} steps an epoch" in lines[2]
    assert str(tmp_path / "run") in lines[4]

    placed = assemble.place_state(experiment, state)
    first = experiment.mesh.devices.flat[0]
    bytes_there = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(placed)
        for shard in leaf.addressable_shards
        if shard.device == first
    )
    assert f"the state takes {bytes_there / 1e6:,.1f} MB of each device" in lines[3]
