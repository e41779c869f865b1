"""The methods on CIFAR from local files: pieces, the table, what it refuses."""

import json
import sys

import numpy as np
import pytest

from caco_jax.runs.preemption import Stopped
from caco_jax.schema import UserError
from experiments.benchmarks import reproduce

TINY = [
    "--config.encoder.backbone=resnet_tiny",
    "--config.encoder.width=4",
    "--config.encoder.projector_widths=(8,8)",
    "--config.training.batch_size=32",
    "--config.method.queue_size=64",
    "--config.evaluation.knn_neighbours=5",
]


def cifar_folder(root):
    """CIFAR-10's binary files with 20 images each."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = np.arange(20, dtype=np.uint8)[:, None] % 10
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        (root / f"{name}.bin").write_bytes(np.hstack([labels, pixels]).tobytes())
    (root / "batches.meta.txt").write_text("".join(f"class{c}\n" for c in range(10)))
    return root


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["reproduce", *flags])
    reproduce.main()


def test_the_table_says_not_run_and_what_peers_have():
    row = {"linear": 0.9, "knn": 0.8, "few_shot_mean": 0.5}
    row |= {"arm": "moco", "epochs": 1000, "pretrain_seconds": 7200.0}
    lines = reproduce.table([row], "cifar10").splitlines()
    assert lines[2] == "| moco | 1000 | 90.0 | 80.0 | 50.0 | 92.9 | 2.0 |"
    assert lines[3] == "| simclr |  | not run | not run | not run | 90.7 |  |"
    assert len(lines) == 2 + len(reproduce.METHODS)


def test_a_deadline_ends_a_run_when_its_time_is_over():
    assert not reproduce.Deadline(1.0).requested()
    over = reproduce.Deadline(0.0)
    assert over.requested()
    with pytest.raises(Stopped, match="0 minutes are over"):
        over.check()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--source=folder:x"], "--source: expected cifar10:PATH or cifar100:PATH, "),
        (
            ["--source=cifar10:x", "--methods", "byol"],
            "--methods: expected some of moco, simclr, adco, caco, alpha_cl, got",
        ),
        (
            ["--source=cifar10:x", "--minutes=0"],
            "--minutes: expected a number above 0, got 0.0",
        ),
    ],
)
def test_wrong_flags_are_one_line(monkeypatch, flags, message):
    with pytest.raises(UserError) as caught:
        run(monkeypatch, *flags)
    assert str(caught.value).startswith(message)


@pytest.mark.slow
def test_a_run_that_is_out_of_time_goes_on_by_the_same_command(
    monkeypatch, tmp_path, capsys
):
    source = f"--source=cifar10:{cifar_folder(tmp_path / 'cifar')}"
    out = tmp_path / "r.json"
    flags = [source, "--methods", "moco", "--epochs=2", f"--out={out}", *TINY]
    with pytest.raises(Stopped, match="rerun the same command to resume"):
        run(monkeypatch, *flags, "--minutes=1e-6")
    assert "| moco |  | not run |" in capsys.readouterr().out
    run(monkeypatch, *flags)
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["arm"], row["epochs"]) == ("moco", 2)
    before = out.read_bytes()
    run(monkeypatch, *flags)
    assert out.read_bytes() == before
