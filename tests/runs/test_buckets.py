"""Runs in a bucket: what is there, what is missing, and what cannot be."""

import json
import logging
import sys

import jax
import numpy as np
import pytest

from caco_jax._paths import bucket_address
from caco_jax.config.build import load_run
from caco_jax.interop.workdirs import export_run
from caco_jax.programs import knn, pretrain, report
from caco_jax.runs import buckets
from caco_jax.runs.checkpoints import Checkpoints, SaveError
from caco_jax.runs.fit import Reporter
from caco_jax.runs.progress import RunProgress
from caco_jax.runs.workdir import Workdir, locked
from caco_jax.schema import UserError
from tests.bucket import emulated_bucket
from tests.experiments.commands import CONFIG, TINY, call, one_line, succeeded
from tests.runs import processes, tiny
from tests.runs.test_checkpoints import CONFIG as VALUES
from tests.runs.test_checkpoints import OTHER, make_state

pytestmark = pytest.mark.xdist_group("buckets")


@pytest.fixture(scope="module", autouse=True)
def bucket():
    with emulated_bucket():
        yield


@pytest.fixture
def files(request):
    """A claimed directory in the bucket."""
    files = Workdir(f"gs://bucket/{request.node.name}/run")
    files.claim(VALUES)
    return files


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def save(files, *steps):
    with Checkpoints(files, keep=2) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step), RunProgress(epoch_steps=step))


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize(
    "text, address",
    [
        ("gs://bucket/run", "gs://bucket/run"),
        ("GS://bucket/a/run/", "gs://bucket/a/run"),
        ("gs:/bucket/run", "gs://bucket/run"),  # as pathlib writes it
        ("runs/gs", None),
        ("s3://bucket/run", None),
    ],
)
def test_addresses(text, address):
    assert bucket_address(text) == address


@pytest.mark.parametrize("text", ["gs://", "gs://bucket", "gs://bucket/"])
def test_a_bucket_alone_is_no_directory(text):
    with pytest.raises(UserError) as caught:
        Workdir(text)
    assert str(caught.value) == (
        f"--workdir: expected gs://BUCKET/DIRECTORY, got {text}"
    )


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError) as caught:
        Workdir("gs://bucket/run")
    assert str(caught.value) == (
        "--workdir: gs://bucket/run: expected the package gcsfs, which is not "
        "installed; pip install 'caco_jax[gcs]'"
    )


def test_a_bucket_that_cannot_be_read_is_one_line(monkeypatch):
    class Closed:
        def ls(self, address):
            raise PermissionError("Forbidden: no access\nto it")

    monkeypatch.setattr(buckets, "_files", Closed)
    with pytest.raises(UserError) as caught:
        Workdir("gs://bucket/run")
    assert str(caught.value).startswith(
        "--workdir: cannot read gs://bucket/run: Forbidden: no access; check that the "
        "bucket exists and that this machine's account may use it ("
    )


def test_a_directory_is_claimed_and_its_lines_are_kept(files):
    assert str(files.path) == f"gs://bucket/{files.path.parent.name}/run"
    again = Workdir(str(files.path))
    assert again.read_config() == {**VALUES, "widths": [8, 4]}
    assert again.read_metrics() == []
    for step in (1, 2):
        again.append_metrics({"step": step})
    assert again.read_metrics() == [{"step": 1}, {"step": 2}]
    assert names(files.path) == ["config.json", "metrics.jsonl"]
    with pytest.raises(UserError, match=r"with another: e"):
        again.claim(OTHER)
    with pytest.raises(UserError, match=r"^--force_new: expected a directory of this"):
        again.claim(OTHER, force_new=True)
    assert again.read_config() == {**VALUES, "widths": [8, 4]}
    with pytest.raises(UserError, match=r"run: it has no config\.json; run caco pre"):
        Workdir("gs://bucket/none/run").read_config()


def test_there_is_no_lock_and_it_is_said_once(files, caplog):
    with caplog.at_level(logging.WARNING, "caco_jax"):
        for _ in range(2):
            with locked(files.path):
                pass
    assert caplog.messages == [
        f"{files.path} cannot be locked (a bucket has no locks): make sure that no "
        "other process uses it"
    ]


def test_checkpoints_come_back_bit_by_bit(files):
    save(files, 3, 6, 9)
    again = Checkpoints(Workdir(files.path))
    assert again.steps() == [6, 9]
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        make_state(0),
    )
    same(again.restore(like), make_state(9))
    same(again.restore(like, step=6), make_state(6))
    assert again.restore_arrays()["players"]["bank"].shape == (16, 2)
    assert again.read_progress().epoch_steps == 9


def test_a_save_that_was_cut_off_does_not_count_and_is_made_again(files):
    save(files, 3, 6)
    last = files.checkpoints / "6"
    (last / buckets.COMMITTED).unlink()
    (last / "manifest.json").unlink()
    again = Checkpoints(Workdir(files.path))
    assert (again.steps(), again.latest_step()) == ([3], 3)
    save(files, 6)
    assert Checkpoints(files).steps() == [3, 6]
    assert Checkpoints(files).latest_step() == 6


def test_a_checkpoint_that_lost_an_object_is_set_aside(files):
    save(files, 3, 6)
    (files.checkpoints / "6" / "state" / "manifest.ocdbt").unlink()
    checkpoints = Checkpoints(Workdir(files.path))
    assert checkpoints.damage(6).startswith("state/manifest.ocdbt cannot be read")
    assert checkpoints.latest_step() == 3
    (files.damaged / "checkpoints-6" / "earlier").write_text("of that name, too")
    checkpoints.set_aside_damaged(files.damaged)
    assert Checkpoints(files).steps() == [3]
    assert "state" in names(files.damaged / "checkpoints-6")
    assert "earlier" not in names(files.damaged / "checkpoints-6")


def test_what_a_bucket_raises_ends_in_a_failed_save(files, monkeypatch):
    class HttpError(Exception):
        """As gcsfs has one, which is no OSError."""

    def refuse(self, data):
        raise HttpError("503, try again\nlater")

    monkeypatch.setattr(type(files.path), "write_bytes", refuse)
    with pytest.raises(OSError, match=r"503, try again$"):
        files.append_metrics({"step": 1})
    with pytest.raises(UserError, match=r"cannot write to gs://.*: 503, try again;"):
        Workdir("gs://bucket/other/run").claim(VALUES)
    with Checkpoints(files) as checkpoints:
        monkeypatch.setattr(checkpoints, "_open", lambda: refuse(0, 0))
        with pytest.raises(SaveError, match=r"cannot save step 3 in gs://.*503, try"):
            checkpoints.save(make_state(3))


class Ended(Exception):
    """The run is cut off."""


class Until(Reporter):
    def __init__(self, epoch):
        self.epoch = epoch

    def epoch_done(self, epoch, *rest):
        if epoch == self.epoch:
            raise Ended


@pytest.mark.slow
def test_a_run_goes_on_as_in_a_directory(tmp_path):
    run = tiny.run(training__keep_checkpoints=2)
    with pytest.raises(Ended):
        run.fit("gs://bucket/runs/tiny", reporter=Until(2))
    run.fit("gs://bucket/runs/tiny")
    run.fit(tmp_path / "tiny")
    there, here = Workdir("gs://bucket/runs/tiny"), Workdir(tmp_path / "tiny")
    assert set(names(here.path)) - set(names(there.path)) == {"lock"}
    assert there.read_config() == here.read_config()
    rows = [
        [
            {k: v for k, v in row.items() if "second" not in k}
            for row in f.read_metrics()
        ]
        for f in (there, here)
    ]
    assert len(rows[0]) == 4 and rows[0] == rows[1]
    steps = [Checkpoints(files).steps() for files in (there, here)]
    assert len(steps[0]) == 2 and steps[0] == steps[1]
    same(*(load_run(files.path).state.players for files in (there, here)))


@pytest.mark.slow
def test_commands_on_a_run_in_a_bucket(tmp_path):
    flags = [CONFIG, "--workdir=gs://bucket/runs/digits", *TINY]
    out = succeeded(call(pretrain.main, *flags, "--dry_run"))
    assert "a checkpoint, at most" in out and "free for" not in out
    assert not buckets.exists(Workdir("gs://bucket/runs/digits").path)
    out = succeeded(call(pretrain.main, *flags))
    assert out.startswith("The run in gs://bucket/runs/digits is complete: 2 epochs")
    flags += ["--force_new", "--dry_run"]
    assert one_line(call(pretrain.main, *flags)) == (
        "--force_new: expected a directory of this machine, got "
        "gs://bucket/runs/digits, where a run cannot be moved aside; name another "
        "directory, or remove this one (gcloud storage rm -r)"
    )

    place = Workdir("gs://bucket/runs/digits").path
    succeeded(call(knn.main, f"--workdir={place}"))
    assert "results" in json.loads((place / "knn.json").read_text())
    out = succeeded(call(report.main, f"--workdir={place}"))
    assert out.startswith(f"{place}/report.html: ")
    assert "kNN" in (place / "report.html").read_text()
    assert export_run(place, tmp_path / "w.safetensors")["step"] == 8


@pytest.mark.slow
def test_two_processes_write_to_one_bucket():
    command = ["tests.runs.processes", "gs://bucket/two", "caco"]
    with processes.launched(
        [command] * 2, devices=1, environments=processes.slurm(2)
    ) as running:
        for process in processes.ended(running, timeout_s=300):
            assert process.status == 0, process.err
    files = Workdir("gs://bucket/two/caco")
    assert len(files.read_metrics()) == 2
    state = files.checkpoints / str(Checkpoints(files).require_whole()) / "state"
    assert {"ocdbt.process_0", "ocdbt.process_1"} <= set(names(state))
    assert load_run(files.path).state.step == 4
