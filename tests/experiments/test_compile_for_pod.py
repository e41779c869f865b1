"""The command as a person runs it; with a compiler for TPUs, where there is one."""

import json
import os
import subprocess
import sys

import pytest

from caco_jax.programs import compile_for_pod
from tests.experiments.commands import ROOT, call, one_line, succeeded

RECIPE = "--config=configs/caco_imagenet.py"
TPU_PYTHON = os.environ.get("CACO_TPU_PYTHON")


@pytest.fixture(scope="module")
def tpu_python():
    """An interpreter with a compiler for TPUs."""
    if TPU_PYTHON is None:
        message = (
            "no libtpu: name an interpreter that has caco_jax[tpu] in CACO_TPU_PYTHON; "
            "`make tpu` makes one"
        )
        if os.environ.get("CI"):  # which installs it
            pytest.fail(message)
        pytest.skip(message)
    return TPU_PYTHON


def run(*flags, python, module="experiments.compile_for_pod"):
    """The command in a process of its own, on no TPU."""
    hidden = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR")
    return subprocess.run(
        [python, "-m", module, *flags],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        timeout=1500,
    )


def refusal(*flags, python):
    done = run(*flags, python=python)
    return one_line((done.returncode, done.stdout, done.stderr))


def test_help():
    assert "--sweep_topologies" in succeeded(call(compile_for_pod.main, "--help"))


def test_json_prints_the_saved_report_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(compile_for_pod, "open_slice", str)
    monkeypatch.setattr(
        compile_for_pod, "make_report", lambda *_, quick: {"quick": quick}
    )
    monkeypatch.setattr(compile_for_pod, "as_text", str)
    out = tmp_path / "report.json"
    flags = (RECIPE, "--topology=v5e:2x2", f"--out={out}", "--json")
    status, said, told = call(compile_for_pod.main, *flags)
    assert status == 0 and f"saved in {out}" in told
    assert json.loads(said) == json.loads(out.read_text())
    assert json.loads(said)["quick"] is False


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            (RECIPE,),
            "one of the arguments --topology --sweep_topologies is required; "
            "see --help",
        ),
        (
            (RECIPE, "--topology=v5e:4x4", "--scale_batch"),
            "--scale_batch: expected --sweep_topologies, got --topology",
        ),
        (
            ("--config=configs/__init__.py", "--topology=v5e:4x4"),
            "--config: expected a file that defines get_config(), got "
            "configs/__init__.py",
        ),
    ],
)
def test_mistakes_are_one_line(flags, line):
    assert one_line(call(compile_for_pod.main, *flags)) == line


@pytest.mark.skipif(sys.executable == TPU_PYTHON, reason="libtpu is here")
def test_libtpu_missing():
    told = one_line(call(compile_for_pod.main, RECIPE, "--topology=v5e:4x4"))
    assert told == (
        "--topology: expected libtpu, which compiles for TPUs, got an environment "
        "without it; pip install 'caco_jax[tpu]'"
    )


@pytest.mark.slow
def test_traffic_is_read_as_it_is(tpu_python):
    """A copy, a product and a fused reduction: each array once, to the byte."""
    done = run(python=tpu_python, module="tests.pod.known_traffic")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"copy", "matmul", "fused reduction"}
    for read, known in found.values():
        assert read == pytest.approx(known, rel=1e-4)


@pytest.mark.slow
def test_a_slice_that_libtpu_does_not_know(tpu_python):
    line = refusal(RECIPE, "--sweep_topologies=v5e:4x4,v5e:3x5", python=tpu_python)
    start, _, known = line.partition("one of ")
    assert start == "--sweep_topologies: expected CHIP:SHAPE, "
    known, _, got = known.partition("; ")
    assert got == "got 'v5e:3x5'"
    assert {"v4:4x4x4", "v5e:4x4", "v5e:16x16", "v5p:2x2x1", "v6e:8x8"} <= set(
        known.split(", ")
    )


@pytest.mark.slow
def test_a_batch_that_the_slice_does_not_divide(tpu_python):
    flags = ("--topology=v5e:8x8", "--config.training.batch_size=100")
    assert refusal(RECIPE, *flags, python=tpu_python) == (
        "config.training.batch_size: expected a multiple of the 64 devices, got 100"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "batch", "bank", "dtype"),
    [
        ("v5e:16x16", 4096, 65_536, "float32"),
        ("v5e:4x4", 2048, 1_048_576, "bfloat16"),
    ],
)
def test_the_imagenet_recipe_on_a_pod(
    tmp_path, tpu_python, topology, batch, bank, dtype
):
    """It fits, and the bank game's traffic follows from the batch, not the bank."""
    out = tmp_path / "report.json"
    done = run(
        RECIPE,
        f"--topology={topology}",
        "--quick",
        f"--config.training.batch_size={batch}",
        f"--config.method.bank_size={bank}",
        f"--config.encoder.dtype={dtype}",
        f"--config.encoder.fold_batchnorm={dtype == 'bfloat16'}",
        f"--out={out}",
        python=tpu_python,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    chips, dim = report["chips"], report["embedding_dim"]
    assert (report["topology"], report["dtype"]) == (topology, dtype)
    assert (report["batch_size"], report["memory_rows"], dim) == (batch, bank, 256)
    assert report["fits"]
    used = report["memory_bytes"]["total"] / 2**30
    assert used < 16
    assert f"fits: {used:.2f} of 16 GiB a chip" in done.stdout

    # Queries and keys of both views: four matrices of [N, D] float32. Two halves are
    # gathered and the queries' gradient is summed, whatever the bank: 2 / 4 + 2 * 2 / 4
    # of what a ring sends, and a number or two for each query.
    four_views = 4 * batch * dim * 4
    ring = (chips - 1) / chips
    sent = report["sent_bytes"]["game"]
    assert sent <= 2.5 * four_views
    assert sent == pytest.approx(2.02 * ring * four_views, rel=0.005)
    # All weights of the encoder and its projector, once.
    weights = sum(
        row["payload_bytes"]
        for row in report["collectives"]
        if row["part"] == "encoder gradient"
    )
    assert 4 * 32.3e6 < weights < 4 * 32.4e6
    # The check that all is finite reduces a few bytes, which a TPU pads to 512; the
    # norm of the bank's gradient is one float32 number.
    assert report["sent_bytes"]["other"] <= 2 * (512 + 4) * ring
    # ResNet-50: 4.1 billion multiplications an image, each with its addition; forward
    # and back through the online encoder, forward through the target.
    encoder = report["work"]["encoder"], report["work"]["encoder gradient"]
    per_view = sum(part["flops"] for part in encoder) / (2 * batch / chips)
    assert per_view == pytest.approx(4 * 2 * 4.1e9, rel=0.1)
    # 2.86 times the least; 3.29 times without folding.
    least = report["floor_bytes"]["total"]
    if dtype == "bfloat16":
        assert least < report["work"]["total"]["hbm_bytes"] < 3 * least
    # Scores for the positives, for the loss and for the move, and what the last two
    # pull; where the bank is one block, XLA keeps the loss's scores for the move.
    assert report["loops_of_unknown_length"] == []
    product = 2 * (2 * batch) * (bank / chips) * dim
    assert 3.99 * product < report["work"]["game"]["flops"] < 5.01 * product
