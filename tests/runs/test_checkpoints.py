"""A run's directory: whose it is, what is in it, and that nothing is lost."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from caco_jax.methods.method import Network
from caco_jax.runs.checkpoints import Checkpoints, SaveError, Workdir, write_json
from caco_jax.schema import UserError
from caco_jax.training.sharding import make_mesh, state_shardings
from caco_jax.training.state import TrainState

# One worker runs them all: they share what a fixture trained.
pytestmark = pytest.mark.xdist_group("checkpoints")

CONFIG = {"method": {"name": "caco", "bank_size": 8}, "widths": (8, 4), "seed": 0}
OTHER = {"method": {"name": "caco", "bank_size": 16}, "widths": (8, 4), "epochs": 1}


def snapshot(folder):
    """Everything that a change would show in: names, contents, times."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in [folder, *folder.rglob("*")]
    }


@pytest.fixture
def files(tmp_path):
    """A claimed directory with something in it."""
    files = Workdir(tmp_path / "run")
    files.claim(CONFIG)
    files.append_metrics({"step": 3, "loss": 1.5})
    files.checkpoints.mkdir()
    return files


def test_a_new_directory_is_made_with_its_parents(tmp_path):
    files = Workdir(tmp_path / "a" / "b")
    files.claim(CONFIG)
    expected = {**CONFIG, "widths": [8, 4]}
    assert files.read_config() == expected
    assert [path.name for path in files.path.iterdir()] == ["config.json"]


def test_a_relative_directory_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = Workdir("run")
    monkeypatch.chdir("/")
    files.claim(CONFIG)
    assert (tmp_path / "run" / "config.json").exists()


def test_claiming_again_with_the_same_configuration_touches_nothing(files):
    before = snapshot(files.path)
    files.claim(CONFIG)
    files.claim({**CONFIG, "widths": [8, 4]})  # as it comes back from the file
    assert snapshot(files.path) == before


def test_another_configuration_is_refused_key_by_key_and_nothing_is_touched(files):
    before = snapshot(files.path.parent)
    with pytest.raises(UserError) as caught:
        files.claim(OTHER)
    assert str(caught.value) == (
        f"--workdir: expected a run of this configuration, got {files.path} with "
        "another: epochs (None in the run, 1 now), method.bank_size (8 in the run, "
        "16 now), seed (0 in the run, None now); use another workdir, name the keys in "
        "--resume_with_changes to resume with other values, or --force_new to start "
        "over (the old run is moved aside)"
    )
    assert snapshot(files.path.parent) == before


def test_force_new_moves_the_old_run_aside_whole(files):
    before = snapshot(files.path)
    files.claim(OTHER, force_new=True)
    aside = files.path.with_name("run.old")
    assert snapshot(aside) == before
    assert list(snapshot(files.path)) == [".", "config.json"]
    assert files.read_config()["epochs"] == 1


def test_force_new_replaces_what_was_moved_aside_before(files):
    files.claim(OTHER, force_new=True)
    files.claim(CONFIG, force_new=True)
    aside = Workdir(files.path.with_name("run.old"))
    assert aside.read_config()["method"]["bank_size"] == 16
    assert not aside.metrics_file.exists()
    assert len(list(files.path.parent.iterdir())) == 2


@pytest.mark.parametrize("exists", [False, True])
def test_force_new_without_a_run_is_an_ordinary_claim(tmp_path, exists):
    files = Workdir(tmp_path / "run")
    if exists:
        files.path.mkdir()
        (files.path / "notes.txt").write_text("mine")
    files.claim(CONFIG, force_new=True)
    assert files.config_file.exists()
    assert (files.path / "notes.txt").exists() == exists
    assert not files.path.with_name("run.old").exists()


def unwritable(tmp_path):
    (tmp_path / "file").write_text("")
    return {
        "below a file": (tmp_path / "file" / "run", "Not a directory"),
        "a file": (tmp_path / "file", "File exists"),
        "a name too long": (tmp_path / ("x" * 300), "File name too long"),
    }


@pytest.mark.parametrize("force_new", [False, True])
@pytest.mark.parametrize("kind", ["below a file", "a file", "a name too long"])
def test_a_directory_that_cannot_be_written_is_refused(tmp_path, kind, force_new):
    path, reason = unwritable(tmp_path)[kind]
    with pytest.raises(UserError) as caught:
        Workdir(path).claim(CONFIG, force_new=force_new)
    assert str(caught.value) == (
        f"--workdir: cannot write to {path}: {reason}; name a directory that you may "
        "write to"
    )


def test_a_run_that_cannot_be_moved_aside_is_refused(files, monkeypatch):
    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(files.path), "rename", refuse)
    before = snapshot(files.path)
    with pytest.raises(UserError, match=r"cannot write to .*: Permission denied; name"):
        files.claim(OTHER, force_new=True)
    assert snapshot(files.path) == before


@pytest.mark.parametrize("kind", ["below a file", "a file", "a name too long"])
def test_a_run_is_not_read_where_there_is_none(tmp_path, kind):
    path, _ = unwritable(tmp_path)[kind]
    with pytest.raises(UserError) as caught:
        Workdir(path).read_config()
    assert str(caught.value) == (
        f"--workdir: expected the directory of a run, got {path}: it has no "
        "config.json; run caco pretrain first"
    )


def test_metric_lines_come_back_in_order(files):
    files.append_metrics({"step": 6, "loss": 0.1 + 0.2})
    assert files.read_metrics() == [
        {"step": 3, "loss": 1.5},
        {"step": 6, "loss": 0.1 + 0.2},
    ]
    assert Workdir(files.path / "none").read_metrics() == []


@pytest.mark.parametrize("torn", ['{"step": 6, "lo', '{"step": 6}', "\x00\x00\x00\n"])
def test_a_line_that_is_not_whole_is_left_out(files, torn):
    with files.metrics_file.open("a") as file:
        file.write(torn)
    assert files.read_metrics() == [{"step": 3, "loss": 1.5}]
    files.write_metrics(files.read_metrics())
    files.append_metrics({"step": 7})
    assert [row["step"] for row in files.read_metrics()] == [3, 7]


def test_writing_the_same_again_touches_nothing(files):
    before = snapshot(files.path)
    files.write_metrics(files.read_metrics())
    write_json(files.config_file, files.read_config())
    assert snapshot(files.path) == before


def test_named_keys_may_change(files):
    files.claim(OTHER, changes=["method.bank_size", "epochs", "seed"])
    assert files.read_config() == {**OTHER, "widths": [8, 4]}
    assert files.metrics_file.exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            ["epochs", "seed"],
            r"with another: method.bank_size \(8 in the run, 16",
        ),
        (
            ["epoch"],
            "^--resume_with_changes: expected a key, got 'epoch'; did you mean ep",
        ),
        ([""], "^--resume_with_changes: expected a key, got ''$"),
    ],
)
def test_other_keys_may_not_change(files, changes, message):
    before = snapshot(files.path)
    with pytest.raises(UserError, match=message), files.claimed(OTHER, changes=changes):
        pytest.fail("it is claimed")
    assert snapshot(files.path) == before


def test_a_json_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    seen = []
    replace = type(path).replace
    monkeypatch.setattr(
        type(path),
        "replace",
        lambda self, to: (
            seen.append((self.read_text(), to.read_text())) or replace(self, to)
        ),
    )
    write_json(path, {"b": 2})
    ((new, old),) = seen  # the new contents were complete beside the old file
    assert (json.loads(new), json.loads(old)) == ({"b": 2}, {"a": 1})
    assert json.loads(path.read_text()) == {"b": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def make_state(step):
    rng = np.random.default_rng(step)
    players = {
        "encoder": {"kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)},
        "bank": jnp.asarray(rng.normal(size=(16, 2)), jnp.float32),
    }
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        players=players,
        stats={"mean": jnp.ones(2)},
        target=Network(jax.tree.map(jnp.copy, players["encoder"]), {}),
        extra={"bank_ages": jnp.arange(16, dtype=jnp.int32)},
        opt_state=optax.trace(0.9).init(players),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with the states of steps 3, 6 and 9, of which two are kept."""
    files = Workdir(tmp_path_factory.mktemp("saved"))
    with Checkpoints(files, keep=2) as checkpoints:
        for step in (3, 6, 9):
            checkpoints.save(make_state(step))
    return files


def test_the_newest_state_comes_back_bit_by_bit(saved):
    like = jax.eval_shape(lambda: make_state(0))
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        like,
    )
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest_step() == 9
        found = checkpoints.restore(like)
    expected = make_state(9)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.map(lambda leaf: leaf.dtype, found) == jax.tree.map(
        lambda leaf: leaf.dtype, expected
    )


def test_nothing_is_warned_of_where_a_whole_state_comes_back(saved, caplog):
    """Of Orbax either, in the log of a program that does not silence it."""
    caplog.set_level(logging.WARNING, logger="absl")
    with Checkpoints(saved) as checkpoints:
        checkpoints.restore(make_state(0))
        checkpoints.restore_arrays()
    assert [record.getMessage() for record in caplog.records] == []


def test_a_state_comes_back_with_the_shardings_asked_for(saved, devices):
    mesh = make_mesh(devices)
    like = make_state(0)
    like = jax.device_put(
        like, state_shardings(like, mesh, row_sharded=["bank", "bank_ages"])
    )
    with Checkpoints(saved) as checkpoints:
        found = checkpoints.restore(like)
    assert found.players["bank"].sharding == like.players["bank"].sharding
    assert found.players["bank"].addressable_shards[0].data.shape == (2, 2)
    assert found.step.sharding == like.step.sharding


def test_a_step_that_was_kept_comes_back(saved):
    with Checkpoints(saved) as checkpoints:
        found = checkpoints.restore(make_state(0), step=6)
    jax.tree.map(np.testing.assert_array_equal, found, make_state(6))


def test_a_step_that_is_not_there_or_is_damaged_is_refused(saved, tmp_path):
    files = Workdir(tmp_path)
    shutil.copytree(saved.checkpoints, files.checkpoints)
    (files.checkpoints / "6" / "state" / "_METADATA").write_bytes(b"")
    with Checkpoints(files) as checkpoints:
        with pytest.raises(UserError, match=r"in .* \(6, 9\), got 3$"):
            checkpoints.restore(make_state(0), step=3)
        with pytest.raises(UserError, match=r"step 6 .* damaged one \(state/_METADATA"):
            checkpoints.restore(make_state(0), step=6)
        assert int(checkpoints.restore(make_state(0)).step) == 9


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {"players": {**state.players, "bank": jnp.zeros((3, 4))}},
        lambda state: {"extra": {**state.extra, "positive_draw": jnp.uint32(0)}},
        lambda state: {"extra": {}},
        lambda state: {"opt_state": ()},
    ],
    ids=["another size", "one more", "some fewer", "another optimiser"],
)
def test_a_state_of_other_arrays_is_refused_in_one_line(saved, change):
    like = make_state(0)
    like = like._replace(**change(like))
    message = r"--workdir: expected .*/9 to hold the arrays .* or --force_new to"
    with Checkpoints(saved) as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.restore(like)


def test_only_the_newest_are_kept(saved):
    steps = {path.name for path in saved.checkpoints.iterdir() if path.name.isdigit()}
    assert steps == {"6", "9"}


def test_a_step_is_saved_once(saved):
    before = snapshot(saved.checkpoints)
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(make_state(9))
    assert snapshot(saved.checkpoints) == before


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path):
    files = Workdir(tmp_path)
    with Checkpoints(files) as checkpoints:
        assert checkpoints.latest_step() is None
        with pytest.raises(UserError) as caught:
            checkpoints.restore(make_state(0))
    assert str(caught.value) == (
        f"--workdir: expected a run with a checkpoint, got {files.path} without one; "
        "let caco pretrain run to its first checkpoint"
    )


MAGIC = ["crops=[1,6]", "[!a]", "a*b", "a?b", "a[b", "a**b", "a\\b", "\udcff"]
PLAIN = ["a]b", "a b", "$HOME", "{a,b}", "a%20b", "~", "ü=α", "a\nb", "#1", "5"]


@pytest.mark.parametrize("name", MAGIC)
def test_a_name_that_orbax_takes_for_a_pattern_is_refused(tmp_path, name):
    files = Workdir(tmp_path / name / "run")
    with pytest.raises(UserError) as caught:
        files.claim(CONFIG)
    shown = name.replace("\udcff", "\\udcff")
    assert str(caught.value) == (
        r"--workdir: expected a path in UTF-8 without any of * ? [ \, got "
        f"{tmp_path}/{shown}/run: checkpoints there could not be read back; name "
        "another directory, rename this one, or name a link to it"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", PLAIN)
def test_a_state_comes_back_from_any_other_name(tmp_path, name):
    files = Workdir(tmp_path / name)
    files.claim(CONFIG)
    with Checkpoints(files) as checkpoints:
        checkpoints.save(make_state(3))
        checkpoints.finish()
        assert int(checkpoints.restore(make_state(0)).step) == 3


def test_a_link_leads_to_a_name_that_is_refused(tmp_path):
    (tmp_path / "crops=[1,6]").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "crops=[1,6]")
    files = Workdir(tmp_path / "link")
    files.claim(CONFIG)
    with Checkpoints(files) as checkpoints:
        checkpoints.save(make_state(3))
        checkpoints.finish()
        assert int(checkpoints.restore(make_state(0)).step) == 3


def test_a_save_that_cannot_be_restored_does_not_count(tmp_path):
    files = Workdir(tmp_path / "crops=[1,6]")  # unclaimed: Orbax leaves out its index
    with Checkpoints(files) as checkpoints:
        checkpoints.save(make_state(3))
        with pytest.raises(SaveError) as caught:
            checkpoints.finish()
        assert checkpoints.steps() == []
    assert str(caught.value) == (
        f"--workdir: cannot save step 3 in {files.checkpoints}: the written checkpoint "
        "cannot be restored: 8 of 8 arrays are missing, as step"
    )


def test_an_earlier_save_that_cannot_be_restored_is_damaged(tmp_path, monkeypatch):
    files = Workdir(tmp_path / "crops=[1,6]")
    monkeypatch.setattr("caco_jax.runs.checkpoints.find_missing", lambda folder: None)
    with Checkpoints(files) as checkpoints:
        checkpoints.save(make_state(3))
    monkeypatch.undo()
    with Checkpoints(files) as checkpoints:
        assert checkpoints.damage(3) == "8 of 8 arrays are missing, as step"
        assert checkpoints.latest_step() is None


def test_where_all_are_damaged_each_is_said_with_what_is_wrong(saved, tmp_path):
    files = Workdir(tmp_path)
    shutil.copytree(saved.checkpoints, files.checkpoints)
    (files.checkpoints / "6" / "manifest.json").unlink()
    (files.checkpoints / "9" / "state" / "_METADATA").write_bytes(b"")
    size = (saved.checkpoints / "9" / "state" / "_METADATA").stat().st_size
    with Checkpoints(files) as checkpoints:
        for act in (
            lambda: checkpoints.restore(make_state(0)),
            checkpoints.restore_arrays,
            lambda: checkpoints.set_aside_damaged(files.damaged),
        ):
            with pytest.raises(UserError) as caught:
                act()
            assert str(caught.value) == (
                "--workdir: expected an undamaged checkpoint in "
                f"{files.checkpoints}, got none (step 6: manifest.json cannot be read; "
                f"step 9: state/_METADATA has 0 bytes of {size}); put back a copy of "
                "one, or start over with caco pretrain --force_new (the old run "
                "is moved aside)"
            )
    assert checkpoints.steps() == [6, 9]
    assert not files.damaged.exists()


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"seed": 0', "Expecting ',' delimiter: line 1 column 11 (char 10)"),
        (b"[]", "expected an object, got list"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start"),
    ],
)
def test_a_damaged_configuration_is_one_line(files, content, reason):
    files.config_file.write_bytes(content)
    for act in (files.read_config, lambda: files.claim(CONFIG)):
        with pytest.raises(UserError) as caught:
            act()
        assert str(caught.value).startswith(
            f"--workdir: {files.config_file} cannot be read ({reason}"
        )
