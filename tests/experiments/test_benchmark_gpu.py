"""The GPU benchmark: it runs on a CPU too, and its sides take the same steps."""

import os

import jax
import numpy as np
import pytest

from experiments.benchmarks import bank, gpu, profiles, timing, workers
from experiments.benchmarks.workers import Candidate, Crew, Failed, Ready
from tests.experiments.smoke import smoke


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    return smoke("gpu", folder / "figures.json", f"--profile={folder / 'profile'}")


@pytest.mark.slow
@pytest.mark.xdist_group("benchmark_gpu")
def test_smoke_run_writes_every_part(smoke_run):
    figures, printed = smoke_run
    assert figures["machine"]["devices"] == ["cpu"]
    assert figures["machine"]["versions"]["jax"] == jax.__version__
    assert set(figures["products_flops"]) == {"bfloat16", "float32"}
    assert list(figures["bank"]) == ["8 64 16", "8 128 16"]
    step, cifar = figures["step"]["batch 4"], figures["cifar"]["simclr, resnet18"]
    for row in (*figures["bank"].values(), step, cifar):
        assert row["ours"]["seconds"]["median"] > 0
        assert row["ours"]["memory_bytes"] > 0
        for way in {"tuned", "original"} & set(row):
            if timing.version("torch") is None:
                assert row[way]["failed"] == (
                    "ModuleNotFoundError: No module named 'torch'"
                )
                assert f"{way} failed: ModuleNotFoundError" in printed
            else:
                ratio = row[way]["seconds"]["median"] / row["ours"]["seconds"]["median"]
                assert row[f"{way}_over_ours"] == pytest.approx(ratio)
    speed = step["images_per_second"]["ours"]
    assert speed == pytest.approx(4 / step["ours"]["seconds"]["median"])
    for row in figures["bank"].values():
        ours, limit = row["ours"]["seconds"]["median"], row["limit_seconds"]
        assert row["ours_over_limit"] == pytest.approx(ours / limit)
    assert "recolored" in figures["step"]["recolored"]
    assert "failed" in figures["step"]["largest batch, ours"]  # a CPU tells no limit


@pytest.mark.slow
@pytest.mark.xdist_group("benchmark_gpu")
def test_profile_tells_the_parts_of_a_step(smoke_run):
    figures, printed = smoke_run
    parts = figures["step"]["profile"]["seconds_by_part"]
    names = {name for name, _ in profiles.PARTS}
    assert {"convolutions", "BatchNorm", "bank game and loss"} <= set(parts)
    assert set(parts) <= names | {profiles.MOVING_AVERAGE, profiles.UNNAMED}
    assert all(seconds > 0 for seconds in parts.values())
    assert "convolutions " in printed


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        ("jit(train_step)/views/vmap()/mul", "augmentation"),
        ("jit(f)/jvp(payoff)/Encoder/backbone/bn1/batchnorm/mul", "BatchNorm"),
        ("jit(f)/jvp(payoff)/backbone/conv1/conv_general_dilated", "convolutions"),
        ("jit(f)/jvp(payoff)/Encoder/projector/dot_general", "rest of the encoder"),
        ("jit(f)/jvp(payoff)/while/body/dot_general", "bank game and loss"),
        ("jit(f)/optimizer/mul", "optimisers"),
        ("jit(f)/mul", profiles.MOVING_AVERAGE),
        ("", profiles.UNNAMED),
    ],
)
def test_operations_are_told_by_their_names(op_name, part):
    assert profiles.part(op_name) == part


@pytest.mark.slow
def test_torch_sides_take_our_bank_step():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    from experiments.benchmarks import torch_sides

    arrays = bank.random_arrays(6, 40, 8)
    for bank_temperature in (0.2, 0.1):
        temperatures = {"temperature": 0.2, "bank_temperature": bank_temperature}
        moved, velocity, loss, descent = bank.bank_step(**arrays, **temperatures)
        for way in ("tuned", "original"):
            table, speed, rows, keys = (
                torch.from_numpy(arrays[name].copy())
                for name in ("bank", "velocity", "queries", "keys")
            )
            if way == "tuned":
                their_loss, gradient = torch_sides.tuned_play(
                    table,
                    speed,
                    rows.reshape(-1, 8),
                    keys.flip(0).reshape(-1, 8),
                    **temperatures,
                    dtype=torch.float32,
                )
            else:
                rows.requires_grad_()
                their_loss = torch_sides.original_play(
                    table, speed, rows, keys, **temperatures
                )
                their_loss.backward()
                gradient, their_loss = rows.grad, their_loss.detach()
            close = {"rtol": 1e-4, "atol": 1e-5, "err_msg": way}
            np.testing.assert_allclose(their_loss, loss, **close)
            np.testing.assert_allclose(
                gradient.reshape(descent.shape), descent, **close
            )
            np.testing.assert_allclose(table, moved, **close)
            np.testing.assert_allclose(speed, velocity, **close)


def broken():
    raise MemoryError("too large\nand more")


def gone():
    os._exit(3)


def counting(*, start):
    """Each process counts by itself."""
    count = [start]

    def step():
        count[0] += 1

    return Ready(step, lambda: None, lambda: {"count": count[0]})


@pytest.mark.xdist_group("benchmark_gpu")
def test_one_that_fails_takes_none_along(monkeypatch):
    monkeypatch.setattr(workers, "REST_SECONDS", 0.0)
    here = "tests.experiments.test_benchmark_gpu"
    candidates = {
        "broken": Candidate(f"{here}:broken", {}),
        "gone": Candidate(f"{here}:gone", {}),
        "fine": Candidate(f"{here}:counting", {"start": 5}),
    }
    with Crew(limit_seconds=60) as crew:
        sides = crew.compare(candidates, runs=2, round_seconds=0.0)
        assert sides["broken"] == {"failed": "MemoryError: too large"}
        assert sides["gone"] == {"failed": "its process ended, status 3"}
        assert sides["fine"]["count"] == 7  # one step to warm up, one to calibrate
        assert sides["fine"]["seconds"].runs == 2
        with pytest.raises(Failed, match="it has no profile"):
            crew.ask("fine", "profile", "folder")


class Crowded:
    """A crew whose members fit into memory only one at a time, after "ours"."""

    def __init__(self):
        self.stops = 0

    def stop_all(self):
        self.stops += 1

    def compare(self, candidates, *, runs):
        return {
            name: {"failed": "OutOfMemoryError: CUDA out of memory"}
            if len(candidates) > 1 and name != "ours"
            else {"seconds": timing.Timing(1.0, 1.0, 1.0, runs)}
            for name in candidates
        }


def test_one_that_lacked_memory_is_timed_alone():
    crew = Crowded()
    session = gpu.Session(gpu._options(["--smoke"]), crew)
    candidate = Candidate("nowhere:nothing", {})
    sides = session.compare({"ours": candidate, "tuned": candidate})
    assert "alone" not in sides["ours"]
    assert sides["tuned"]["alone"]
    assert sides["tuned"]["seconds"].median == 1.0
    assert crew.stops == 2  # before, and after: it must hold no memory of the next


def test_parts_share_the_budget_and_leave_what_they_do_not_use(monkeypatch):
    monkeypatch.setattr(gpu.time, "monotonic", lambda: 100.0)
    ends = gpu.deadlines(["step", "bank", "cifar"], 400.0)
    assert ends == pytest.approx({"step": 280.0, "bank": 440.0, "cifar": 500.0})
    assert gpu.deadlines(["bank"], 400.0) == pytest.approx({"bank": 500.0})


def test_sizes_of_the_whole_run_are_those_promised():
    assert gpu.FULL["bank"] == {
        "queries": (256, 1024, 4096),
        "entries": (65536, 1_048_576),
        "dim": (128, 256),
    }
    assert gpu.FULL["batch"] == gpu.FULL["cifar"]["batch"] == 256
    assert gpu.FULL["step"].keys() == gpu.SMOKE["step"].keys()


def test_unknown_parts_are_refused(capsys):
    with pytest.raises(SystemExit):
        gpu._options(["--parts=bank,stpe"])
    assert (
        "expected some of step, bank, cifar, got bank,stpe" in capsys.readouterr().err
    )
