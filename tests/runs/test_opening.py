"""The first lines of a run."""

import dataclasses

import jax

from caco_jax.runs.opening import opening_lines
from caco_jax.runs.workdir import Workdir
from tests.runs import tiny


def test_they_say_what_how_large_and_where(tmp_path):
    run = tiny.run(devices=8)
    state = run.initial_state()
    encoder = sum(leaf.size for leaf in jax.tree.leaves(state.players["encoder"]))
    lines = opening_lines(run, Workdir(tmp_path / "run"))
    assert lines[0] == run.method.description
    assert f" with {encoder:,} parameters, on {run.mesh.size} x cpu" in lines[1]
    assert f"{run.steps_per_epoch:,} steps an epoch" in lines[2]
    assert str(tmp_path / "run") in lines[-1]

    placed = run.place(state)
    first = run.mesh.devices.flat[0]
    bytes_there = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(placed)
        for shard in leaf.addressable_shards
        if shard.device == first
    )
    assert f"the state needs {bytes_there / 1e6:,.1f} MB on each device" in lines[-2]


def test_they_say_how_the_source_was_understood(tmp_path):
    run = tiny.run(devices=1)
    noted = dataclasses.replace(
        run.data, notes=("2 classes: a, b", "ignored: .txt (1)")
    )
    lines = opening_lines(run.replace(data=noted), Workdir(tmp_path / "run"))
    assert lines[3:5] == ["2 classes: a, b", "ignored: .txt (1)"]
