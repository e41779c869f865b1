"""Whole runs in this process: going on, stopping, warning; a tiny encoder in them."""

import copy
import dataclasses
import json
import logging
import shutil

import jax
import numpy as np
import pytest

from caco_jax.config.build import load_run, pretrain
from caco_jax.data.pipeline import BadImages
from caco_jax.evaluation.knn import knn_accuracy
from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.fit import Reporter
from caco_jax.runs.monitor import Monitor
from caco_jax.runs.run import make_network_features, raw_features, read_summary
from caco_jax.runs.workdir import Workdir
from caco_jax.schema import UserError
from caco_jax.training.finite_check import NonFiniteError
from tests.data.pictures import write_pictures
from tests.runs import tiny
from tests.runs.test_checkpoints import snapshot
from tests.training.test_step import assert_trees_equal

# One worker runs them all: they share what a fixture trained.
pytestmark = pytest.mark.xdist_group("fit")

EVERY_TWO = {"training__checkpoint_every_epochs": 2}
STREAMED = {
    "data__views": "cifar",
    "data__view_size": 8,
    "data__workers": 0,
    "training__epochs": 2,
    "training__batch_size": 8,
}


def at_once(**changes):
    """A run without a start-up, which would be one more program."""
    run = tiny.run(**changes)
    return run.replace(method=run.method._replace(start_up=None))


def streamed(**changes):
    """Another such run: of SimCLR, on pictures that are read while it trains."""
    return tiny.run("simclr", **STREAMED | changes)


class Interrupted(Exception):
    pass


def after_epochs(told):
    reporter = Reporter()
    reporter.epoch_done = told
    return reporter


def interrupt_at(last_epoch):
    def told(epoch, *_):
        if epoch == last_epoch:
            raise Interrupted

    return after_epochs(told)


class Whole:
    """An uninterrupted run: its directory, what it returned, what it reported."""

    def __init__(self, path):
        self.files, self.reports = Workdir(path), []
        self.run = tiny.run(**EVERY_TWO)
        self.summary = self.run.fit(
            path, reporter=after_epochs(lambda *row: self.reports.append(row))
        )
        self.loaded = self.run.load(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Whole(tmp_path_factory.mktemp("whole"))


def test_a_run_leaves_its_configuration_metrics_and_summary(whole):
    files = whole.files
    names = {path.name for path in files.path.iterdir()}
    written = {"config.json", "metrics.jsonl", "summary.json", "checkpoints", "best"}
    assert names == {*written, "lock"}
    assert files.read_config()["method"]["name"] == "caco"
    assert json.loads(files.summary_file.read_text()) == whole.summary
    summary = dict(whole.summary)
    assert (summary["epochs"], summary["steps"]) == (4, 12)
    assert 10e6 < summary["peak_memory_bytes"] < 100e9
    speed = summary["images"] / summary["pretrain_seconds"]
    assert summary["images_per_second"] == pytest.approx(speed)


def test_a_metric_line_an_epoch_with_knn_where_it_is_due(whole):
    rows = whole.files.read_metrics()
    assert [(row["epoch"], row["step"]) for row in rows] == [
        (1, 3),
        (2, 6),
        (3, 9),
        (4, 12),
    ]
    assert [("knn" in row) for row in rows] == [False, True, False, True]
    assert all(0 <= row["knn"] * 12 <= 12 for row in rows[1::2])
    wanted = {"loss", "cross_entropy", "embedding_std", "bank_used_ever"}
    assert all(wanted <= set(row) for row in rows)


def test_the_learning_rates_of_an_epoch_are_in_its_line(whole):
    rows = whole.files.read_metrics()
    halves = [np.cos(np.pi * epoch / 8) ** 2 for epoch in range(4)]  # of a cosine
    found = [row["learning_rate_encoder"] for row in rows]
    np.testing.assert_allclose(found, 0.03 * np.array(halves), rtol=1e-5)
    assert [row["learning_rate_bank"] for row in rows] == [3.0] * 4
    assert all(row["gradient_norm_encoder"] > 0 for row in rows)


def test_an_online_head_is_logged_as_such_and_changes_nothing(whole, tmp_path):
    tiny.run(**EVERY_TWO, evaluation__online_linear=True).fit(tmp_path)
    own = {"online_linear", "online_effective_rank"}
    rows = Workdir(tmp_path).read_metrics()
    assert [own <= set(row) for row in rows] == [False, True, False, True]
    assert all(0 <= row["online_linear"] <= 1 for row in rows[1::2])
    bare = [{k: v for k, v in row.items() if k not in own} for row in rows]
    assert bare == whole.files.read_metrics()


def test_the_embedding_is_judged_where_asked_for(whole):
    run, network = whole.run, whole.loaded.network
    evaluation = dataclasses.replace(run.evaluation, features="embedding")
    for judged, kind in (
        (run, "backbone"),
        (run.replace(evaluation=evaluation), "embedding"),
    ):
        train, test = make_network_features(run, kind=kind)(network)
        (accuracy,) = knn_accuracy(*test, *train, num_classes=10, settings=[(3, 0.2)])
        row = Monitor(judged, BadImages("fake", count=48, share=0)).row(
            4, whole.loaded.state, {}
        )
        assert row["knn"] == accuracy
        assert train.features.shape[1] == {"backbone": 8, "embedding": 4}[kind]


def test_each_epoch_is_reported_as_it_is_written(whole):
    assert [report[:2] for report in whole.reports] == [(n, 4) for n in (1, 2, 3, 4)]
    assert [report[2] for report in whole.reports] == whole.files.read_metrics()
    assert all(report[3] > 0 for report in whole.reports)


@pytest.mark.parametrize("last_epoch", [1, 3])
def test_an_interrupted_run_ends_in_the_same_bits(whole, tmp_path, caplog, last_epoch):
    with pytest.raises(Interrupted):
        whole.run.fit(tmp_path, reporter=interrupt_at(last_epoch))
    files = Workdir(tmp_path)
    # The line of an epoch that was not saved is there, and will be written again.
    assert len(files.read_metrics()) == last_epoch
    saved = Checkpoints(files).steps()
    assert saved == ([6] if last_epoch == 3 else [])
    with caplog.at_level(logging.INFO, "caco_jax"):
        summary = whole.run.fit(tmp_path)
    assert ("continuing from step 6" in caplog.messages) == bool(saved)
    assert files.metrics_file.read_bytes() == whole.files.metrics_file.read_bytes()
    assert_trees_equal(whole.run.load(tmp_path).state, whole.loaded.state)
    counts = ("epochs", "steps", "images")
    assert {key: summary[key] for key in counts} == {
        key: whole.summary[key] for key in counts
    }


def test_a_complete_run_returns_at_once(whole):
    idle = copy.copy(whole.run)
    idle.dispatch = lambda *_: pytest.fail("it trains")
    before = snapshot(whole.files.path)
    summary = idle.fit(whole.files.path)
    assert summary == whole.summary
    assert snapshot(whole.files.path) == before


def test_another_seed_is_another_run(whole, tmp_path):
    shutil.copytree(whole.files.path, tmp_path / "run")
    before = snapshot(tmp_path)
    run = at_once(**EVERY_TWO, seed=3)
    with pytest.raises(UserError, match=r"seed \(0 in the run, 3 now\)"):
        run.fit(tmp_path / "run")
    assert snapshot(tmp_path) == before
    with pytest.raises(Interrupted):
        run.fit(tmp_path / "run", force_new=True, reporter=interrupt_at(1))
    (row,) = Workdir(tmp_path / "run").read_metrics()
    (other, *_) = Workdir(tmp_path / "run.old").read_metrics()
    assert row["loss"] != other["loss"]
    assert Workdir(tmp_path / "run").read_config()["seed"] == 3


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"training__batch_size": 49},
            "config.training.batch_size: expected at most 48, the training images of "
            "fake:8x8x1x48, got 49",
        ),
        (
            {"data__source": "x"},
            "config.data.source: expected one of cifar10, cifar100, digits",
        ),
        ({"data__source": "fake:8x8"}, "config."),
        (
            {"data__source": "fake:8x8x1x1"},
            "config.data.source: expected at least 2 images, fake:8x8x1x1 has 1",
        ),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_anything_is_written(
    tmp_path, changes, message
):
    with pytest.raises(UserError) as caught:
        pretrain(tiny.config(**changes), tmp_path / "run")
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name, size", [("training__batch_size", 12), ("method__bank_size", 20)]
)
def test_rows_must_share_out_evenly_over_the_devices(tmp_path, name, size):
    dotted = name.replace("__", ".")
    with pytest.raises(UserError) as caught:
        pretrain(tiny.config(**{name: size}), tmp_path / "run")
    assert str(caught.value) == (
        f"config.{dotted}: expected a multiple of the 8 devices, got {size}"
    )
    assert not (tmp_path / "run").exists()


def explode(weight_decay):
    """The bank grows by this factor at every step, until it is past all numbers."""
    return {
        "bank_optimizer__weight_decay": weight_decay,
        "bank_optimizer__learning_rate": 1.0,
        "bank_optimizer__momentum": 0.0,
    }


def all_finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("growth", [1e5, 1e13])
def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, growth):
    run = at_once(**explode(growth), training__keep_checkpoints=1)
    for _ in range(2):  # the second time from the checkpoint, if there is one
        with pytest.raises(NonFiniteError) as caught:
            run.fit(tmp_path)
    # The move to infinity is found before a metric shows it.
    assert (caught.value.metric, caught.value.players) == (None, ("bank",))
    kept = caught.value.kept_step
    said = "nothing was saved yet" if kept is None else f"the checkpoint of step {kept}"
    assert f"step {caught.value.step}: bank no longer finite; {said}" in str(
        caught.value
    )
    rows = Workdir(tmp_path).read_metrics()
    assert all_finite([row["loss"] for row in rows])
    done = caught.value.step // 3
    assert [row["epoch"] for row in rows] == list(range(1, done + 1))
    with Checkpoints(Workdir(tmp_path)) as checkpoints:
        assert checkpoints.latest_step() == kept == (3 * done or None)
    if done:
        assert all_finite(run.load(tmp_path).state.players)


def test_an_alarm_is_in_every_line_and_warned_of_once(tmp_path, caplog):
    # At this temperature all entries look alike: the entropy is that of a guess.
    run = at_once(
        method__temperature=1e6,
        training__epochs=12,
        training__checkpoint_every_epochs=12,
        evaluation__knn_every_epochs=12,
    )
    run.fit(tmp_path)
    rows = Workdir(tmp_path).read_metrics()
    ringing = [row["epoch"] for row in rows if "at_chance" in row.get("alarms", [])]
    assert ringing == [10, 11, 12]
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    (warning,) = [line for line in warnings if "cross entropy" in line]
    assert warning.startswith("epoch 10: the cross entropy is 3.689, the logarithm")


def test_images_without_labels_are_trained_on_not_judged(whole, tmp_path):
    bare = dataclasses.replace(
        whole.run.data, train_labels=None, test_labels=None, class_names=()
    )
    run = whole.run.replace(data=bare)
    run.fit(tmp_path)
    rows = Workdir(tmp_path).read_metrics()
    assert [row.get("knn") for row in rows] == [None] * 4
    judged = whole.files.read_metrics()
    assert [row["loss"] for row in rows] == [row["loss"] for row in judged]
    with pytest.raises(UserError, match="expected images with labels"):
        make_network_features(run)


def folder_of(path, *, broken=(), classes=("cat", "dog")):
    for name in classes:
        write_pictures(path / name, 12, broken=broken if name == classes[0] else ())
    return f"folder:{path}"


def test_a_streamed_run_skips_a_broken_picture_and_lists_it(tmp_path, caplog):
    source = folder_of(tmp_path / "pictures", broken=[5])
    run = streamed(data__source=source, data__split_seed=1)
    with caplog.at_level(logging.INFO, "caco_jax"):
        summary = run.fit(tmp_path / "run")
    broken = f"{tmp_path}/pictures/cat/5.jpg"
    skipped = [line for line in caplog.messages if line.startswith("skipped: ")]
    assert [line.split(": ")[1] for line in skipped] == [broken]
    assert summary["bad_images"] == 1
    files = Workdir(tmp_path / "run")
    assert files.bad_images_file.read_text() == skipped[0][len("skipped: ") :] + "\n"
    assert [row.get("knn") is None for row in files.read_metrics()] == [True, False]
    train, test = make_network_features(run)(run.load(tmp_path / "run").network)
    # A tenth of each class is held out; the broken one is in the training part.
    assert train.features.shape == (21, 8)
    np.testing.assert_array_equal(train.labels, [0] * 10 + [1] * 11)
    np.testing.assert_array_equal(test.labels, [0, 1])


def test_too_many_broken_pictures_stop_a_run_with_the_list(tmp_path):
    source = folder_of(tmp_path / "pictures", broken=[2, 5, 7, 8])
    with pytest.raises(UserError) as caught:
        streamed(data__source=source).fit(tmp_path / "run")
    listing = Workdir(tmp_path / "run").bad_images_file
    message = str(caught.value)
    assert message.startswith(
        "config.data.bad_image_share: expected at most 2 of the 22"
    )
    assert message.endswith(f"; all are listed in {listing}")
    assert len(listing.read_text().splitlines()) > 1
    assert "\n" not in message


def test_pictures_without_labels_are_streamed_and_not_judged(tmp_path, caplog):
    source = folder_of(tmp_path / "pictures", classes=["all"])
    run = streamed(training__epochs=1, data__source=f"{source}/all")
    with caplog.at_level(logging.INFO, "caco_jax"):
        run.fit(tmp_path / "run")
    assert caplog.messages.count(f"{source}/all has no labels: no kNN") == 1
    (row,) = Workdir(tmp_path / "run").read_metrics()
    assert row.get("knn") is None
    with pytest.raises(UserError, match="expected images with labels"):
        make_network_features(run)


def test_a_run_is_read_back_as_it_ended(whole):
    loaded = load_run(whole.files.path)
    assert loaded.pretraining.description.values == whole.run.description.values
    assert loaded.data.digest() == whole.run.data.digest()
    assert int(loaded.state.step) == 12
    assert_trees_equal(loaded.state, whole.loaded.state)
    assert loaded.network.params is loaded.state.players["encoder"]
    assert loaded.network.stats is loaded.state.stats
    assert read_summary(loaded.files) == whole.summary


def test_features_are_of_all_images_in_order_with_their_labels(whole):
    images = whole.run.data
    train, test = whole.loaded.features()
    assert train.features.shape == (48, 8)
    assert test.features.shape == (12, 8)
    np.testing.assert_array_equal(train.labels, images.train_labels)
    np.testing.assert_array_equal(test.labels, images.test_labels)
    mean, std = 0.305, 0.319
    pixels = (images.test_examples / 255 - mean) / std
    params, stats = (part["backbone"] for part in whole.loaded.network)
    variables = {"params": params, "batch_stats": stats}
    expected = jax.jit(tiny.Backbone().apply, static_argnames="train")(
        variables, pixels, train=False
    )
    np.testing.assert_allclose(test.features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at_most, rows", [(3, [0, 24, 47]), (48, range(48))])
def test_the_monitor_looks_at_training_images_from_all_over(whole, at_most, rows):
    every, held_out = whole.loaded.features()
    some, same = make_network_features(whole.run, most_train=at_most)(
        whole.loaded.network
    )
    chosen = np.array(rows)
    np.testing.assert_array_equal(some.labels, every.labels[chosen])
    np.testing.assert_allclose(some.features, every.features[chosen], rtol=1e-5)
    np.testing.assert_array_equal(same.labels, held_out.labels)


def test_a_streamed_set_without_a_readable_image_to_judge_by_says_so(tmp_path):
    source = folder_of(tmp_path / "pictures" / "train")
    write_pictures(tmp_path / "pictures" / "test" / "cat", 1, broken=[0])
    run = streamed(data__source=source.removesuffix("/train"), data__test_split="test")
    with pytest.raises(UserError, match="expected images to evaluate with, got none"):
        make_network_features(run)(run.new_network())


def test_raw_pixels_are_features_too(whole):
    train, test = raw_features(whole.loaded)
    images = whole.run.data
    np.testing.assert_array_equal(
        train.features,
        (images.train_examples.reshape(48, 64) / 255.0).astype(np.float32),
    )
    np.testing.assert_array_equal(test.labels, images.test_labels)


def test_a_run_is_judged_beside_its_random_self_and_raw_pixels(whole):
    loaded = whole.loaded
    random = make_network_features(whole.run)(whole.run.new_network())
    for kind, parts in {"random": random, "raw": raw_features(loaded)}.items():
        train, test = loaded.features(kind=kind)
        np.testing.assert_array_equal(train.features, parts[0].features)
        np.testing.assert_array_equal(test.features, parts[1].features)
        (share,) = knn_accuracy(
            *test, *train, num_classes=loaded.data.num_classes, settings=[(3, 0.1)]
        )
        assert loaded.knn(kind=kind, k=3, temperature=0.1) == share
    assert not np.array_equal(loaded.features()[1].features, random[1].features)
    assert loaded.metrics()[-1]["epoch"] == whole.run.training.epochs
    with pytest.raises(
        ValueError, match="expected one of backbone, embedding, random, ra"
    ):
        loaded.knn(kind="pixels")


def test_a_directory_without_a_checkpoint_says_what_to_do(whole, tmp_path):
    files = Workdir(tmp_path / "claimed")
    files.claim(whole.files.read_config())
    for load in (load_run, whole.run.load):
        with pytest.raises(UserError, match=r"/claimed without one; let caco"):
            load(files.path)
        with pytest.raises(
            UserError, match=r"expected the directory of a run, got .*/no"
        ):
            load(tmp_path / "none")


def test_an_epoch_is_saved_before_anybody_is_told_of_it(tmp_path):
    run = at_once(**EVERY_TWO)
    with pytest.raises(Interrupted):
        run.fit(tmp_path, reporter=interrupt_at(2))
    files = Workdir(tmp_path)
    assert Checkpoints(files).steps() == [2 * run.steps_per_epoch]
    assert len(files.read_metrics()) == 2
