"""Where JAX has no device: each command says so in a line, and the doctor does."""

import json
import logging
import os
import subprocess
import sys

import jax
import pytest

from caco_jax.config.build import build_run
from caco_jax.programs import doctor
from caco_jax.runs.cautions import cautions
from tests.experiments.commands import ROOT, call, one_line

NOT_KNOWN = (
    "Unable to initialize backend 'cpuu': Backend 'cpuu' is not in the list of known "
    "backends: ['cpu', 'tpu']. (set JAX_PLATFORMS='' to automatically choose one)"
)
# JAX_PLATFORMS, what JAX raises, what is made of it.
MISSING = [
    ("cuda", AssertionError(), "got 'cuda': JAX finds none here; JAX_PLATFORMS=cpu"),
    (
        "cpuu",
        RuntimeError(NOT_KNOWN),
        "got 'cpuu': Unable to initialize backend 'cpuu': Backend 'cpuu' is not in the "
        "list of known backends: ['cpu', 'tpu']; JAX_PLATFORMS=cpu runs",
    ),
    ("tpu", RuntimeError("one\ntwo"), "got 'tpu': one; JAX_PLATFORMS=cpu runs"),
]


@pytest.fixture(autouse=True)
def loud():
    """The library's own level, as it is for the tests beside these."""
    logger = logging.getLogger("caco_jax")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture(params=MISSING, ids=[name for name, *_ in MISSING])
def missing(request, monkeypatch, tmp_path):
    """What is said, while JAX finds no device."""
    wanted, error, said = request.param

    def fail():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", wanted)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jax, "devices", fail)
    return f"JAX_PLATFORMS: expected a platform that JAX finds here, {said}"


def test_a_command_without_a_device_is_one_line(missing):
    assert one_line(call(lambda: jax.devices())).startswith(missing)


def test_the_doctor_says_what_is_wrong_and_goes_on(missing):
    status, out, err = call(doctor.main)
    assert (status, err) == (1, "")
    _, devices, cache, steps, *_ = out.splitlines()
    assert devices.startswith(f"FIX   {missing}")
    assert "kept in" in cache
    assert steps == "FIX   three steps of training need a device, and JAX finds none"


def test_the_doctors_findings_as_json(monkeypatch):
    def broken():
        raise doctor.Unwell("no cache")

    monkeypatch.setattr(doctor, "CHECKS", (doctor.versions, broken))
    status, out, err = call(doctor.main, "--json")
    assert status == 1 and "FIX   no cache" in err
    found = json.loads(out)
    assert [row["ok"] for row in found["checks"]] == [True, False]
    assert found["checks"][1] == {"check": "broken", "ok": False, "text": "no cache"}
    assert found["ok"] is False


@pytest.mark.parametrize("error", [RuntimeError("ours"), AssertionError("ours")])
def test_any_other_fault_of_the_program_stays_what_it_is(error):
    def fail():
        raise error

    with pytest.raises(type(error), match="ours"):
        call(fail)


def test_the_doctors_run_is_in_proportion(monkeypatch):
    """What it would otherwise be warned of is nobody's to fix."""
    configs = []

    def note(config, _):
        configs.append(config)
        return {"pretrain_seconds": 0.5}

    monkeypatch.setattr(doctor, "pretrain", note)
    doctor.steps()
    assert cautions(build_run(configs[0])) == []


def test_the_doctor_does_not_say_what_a_run_says_of_itself(monkeypatch, caplog):
    def talk(*_):
        logging.getLogger("caco_jax").info("compiling")
        logging.getLogger("caco_jax").warning("odd")
        return {"pretrain_seconds": 0.5}

    logging.getLogger("caco_jax").setLevel(logging.INFO)
    monkeypatch.setattr(doctor, "pretrain", talk)
    assert doctor.steps() == "three steps of training in 0.5 s"
    assert [record.getMessage() for record in caplog.records] == ["odd"]


def test_a_doctor_names_the_first_line_of_what_fails(monkeypatch):
    def fail(*_):
        raise ValueError("first\nsecond")

    monkeypatch.setattr(doctor, "pretrain", fail)
    with pytest.raises(doctor.Unwell) as caught:
        doctor.steps()
    assert str(caught.value) == "three steps of training fail: ValueError: first"


@pytest.mark.slow
@pytest.mark.parametrize(
    "variable, message",
    [
        ("JAX_PLATFORMS=cuda", "JAX_PLATFORMS: expected a platform"),
        ("JAX_PLATFORMS=cpuu", "JAX_PLATFORMS: expected a platform"),
        ("JAX_ENABLE_X64=maybe", "JAX refuses its environment: invalid truth value"),
    ],
)
def test_a_real_environment_that_is_wrong_is_one_line(variable, message, tmp_path):
    name, value = variable.split("=")
    flags = ("--config=caco_digits:smoke", f"--workdir={tmp_path}")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.pretrain", *flags],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", name: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert "Traceback" not in done.stderr
