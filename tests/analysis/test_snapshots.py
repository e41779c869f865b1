"""A run read back as plain arrays: states, batches, banks and queues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax import methods
from caco_jax.analysis import bank_history, snapshots
from caco_jax.losses import l2_normalize
from caco_jax.methods.moco import enqueue
from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.workdir import Workdir, write_json
from caco_jax.schema import UserError
from tests.runs import tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run's files with two checkpoints: the bank is doubled, then turned round."""
    path = tmp_path_factory.mktemp("runs") / "run"
    run = tiny.run()
    files = Workdir(path)
    files.claim(run.description.values)
    first = run.initial_state()._replace(step=jnp.asarray(3, jnp.int32))
    turned = {**first.players, "bank": -2 * first.players["bank"]}
    second = first._replace(step=jnp.asarray(12, jnp.int32), players=turned)
    with Checkpoints(files) as checkpoints:
        checkpoints.save(first)
        checkpoints.save(second)
    return files, run, (first, second)


def test_states_come_back_oldest_first(saved):
    files, run, states = saved
    assert snapshots.saved_steps(files) == [3, 12]
    found = list(snapshots.read_states(files, run))
    for got, want in zip(found, states, strict=True):
        jax.tree.map(np.testing.assert_array_equal, got, jax.device_get(want))
    assert int(snapshots.read_state(files, run, step=3).step) == 3


def test_a_run_is_read_with_its_files(saved):
    files, run, _ = saved
    again, parts = snapshots.read_parts(files.path)
    assert again.path == files.path
    assert parts.description.values == run.description.values


def test_the_history_compares_each_bank_with_the_one_before(saved):
    files, run, _ = saved
    first, second = bank_history.read_history(files, run)
    assert (first.step, second.step) == (3, 12)
    assert first.kept_cosines is None
    np.testing.assert_allclose(second.kept_cosines, -1, rtol=1e-5)
    assert first.queries.shape == (48, 4)
    assert first.tracking.uses.sum() == 48
    summary = second.summary()
    assert summary["with_itself_before"] == pytest.approx(-1)
    assert summary["unused_share"] == np.mean(second.tracking.uses == 0)


def test_a_directory_without_a_checkpoint_is_refused(tmp_path, saved):
    files = Workdir(tmp_path)
    with pytest.raises(UserError, match=r"it has no\s+config.json"):
        snapshots.read_parts(tmp_path)
    write_json(files.config_file, saved[1].description.values)
    with pytest.raises(UserError, match="expected a run with a checkpoint"):
        snapshots.read_parts(tmp_path)


def test_batches_are_sorted_by_class_and_follow_the_seed(saved):
    _, run, _ = saved
    batch = snapshots.draw_batch(run, size=20, seed=1)
    again = snapshots.draw_batch(run, size=20, seed=1)
    other = snapshots.draw_batch(run, size=20, seed=2)
    assert np.all(np.diff(batch.labels) >= 0)
    np.testing.assert_array_equal(batch.labels, run.data.train_labels[batch.rows])
    assert len(set(batch.rows.tolist())) == 20
    assert [view.shape for view in batch.views] == [(20, 8, 8, 1)] * 2
    np.testing.assert_array_equal(batch.views[0], again.views[0])
    assert set(other.rows) != set(batch.rows)


@pytest.mark.parametrize("size", [1, 0, 49])
def test_a_batch_needs_two_images_that_are_there(saved, size):
    with pytest.raises(ValueError, match=f"expected 2 to 48 images .* got {size}"):
        snapshots.draw_batch(saved[1], size=size)


def test_queries_and_keys_come_from_their_networks(saved):
    _, run, (state, _) = saved
    batch = snapshots.draw_batch(run, size=6)
    queries, keys = snapshots.encode_pairs(run, state, batch)
    np.testing.assert_allclose(jnp.linalg.norm(queries, axis=1), 1, rtol=1e-5)
    swapped = batch._replace(views=batch.views[::-1])
    # Both networks are equal at the start.
    for_keys, _ = snapshots.encode_pairs(run, state, swapped)
    np.testing.assert_allclose(for_keys, keys, atol=1e-6)
    alone, _ = snapshots.encode_pairs(run, state._replace(target=None), batch)
    np.testing.assert_allclose(alone, queries, atol=1e-6)


def test_a_bank_a_queue_or_one_line(saved):
    _, run, (state, _) = saved
    bank = snapshots.memory(run, state)
    assert (bank.name, bank.ages) == ("bank", None)
    np.testing.assert_array_equal(bank.rows, state.players["bank"])
    others = {"encoder": state.players["encoder"]}
    queue = l2_normalize(jnp.asarray(np.random.default_rng(0).normal(size=(40, 4))))
    extra = {"queue": queue, "next_row": jnp.asarray(8)}
    of_queue = run.replace(method=methods.moco(queue_size=40), optimizers=None)
    found = snapshots.memory(
        of_queue, state._replace(players=others, extra=extra, step=jnp.asarray(9))
    )
    assert found.name == "queue"
    np.testing.assert_array_equal(found.rows, queue)
    assert found.ages[7] == 0
    assert found.ages[8] == found.ages.max() == 2  # 39 rows ago, 16 rows a step
    neither = run.replace(method=methods.simclr(), optimizers=None)
    with pytest.raises(
        UserError, match="expected a run with a bank or a queue, got simc"
    ):
        snapshots.memory(neither, state._replace(players=others, extra={}))


@pytest.mark.parametrize("rows_per_step", [4, 6])
def test_ages_of_a_queue_are_those_of_a_diary(rows_per_step):
    size, steps = 12, 7
    queue, following = jnp.zeros((size, 1)), jnp.zeros((), jnp.int32)
    for step in range(steps):
        queue, following = enqueue(
            queue, following, jnp.full((rows_per_step, 1), float(step))
        )
    ages = snapshots.queue_ages(size, int(following), rows_per_step=rows_per_step)
    np.testing.assert_array_equal(ages, steps - 1 - np.asarray(queue)[:, 0])


def test_casting_leaves_integers_alone():
    tree = {"a": np.ones(2, np.float32), "b": np.arange(2)}
    with jax.enable_x64(True):
        found = snapshots.cast(tree, jnp.float64)
        assert found["a"].dtype == jnp.float64
        assert jnp.issubdtype(found["b"].dtype, jnp.integer)
