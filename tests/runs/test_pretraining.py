"""Pretraining built of one's own objects: any encoder, any examples, any players."""

import copy
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import caco_jax
from caco_jax import Pretraining, methods
from caco_jax.config.build import load_run
from caco_jax.methods import Method, Outcome, View
from caco_jax.optim import OptimizerConfig
from caco_jax.runs.preemption import Stop, Stopped
from caco_jax.runs.settings import EvaluationConfig
from caco_jax.runs.workdir import Workdir
from caco_jax.schema import ConfigError, UserError
from caco_jax.training.sharding import make_mesh
from tests.runs.test_checkpoints import snapshot
from tests.training.test_step import assert_trees_equal

# One worker runs them all: they share what was compiled.
pytestmark = pytest.mark.xdist_group("pretraining")

COUNT = 50  # examples, of two classes
LABELS = np.arange(COUNT) % 2
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def draw(shape):
    return np.random.default_rng(0).normal(size=(COUNT, *shape)).astype(np.float32)


# Four encoders, each of another make, and examples that are no images for three.


class Signals(nn.Module):
    """Takes neither `train` nor `branch`, and has no BatchNorm."""

    @nn.compact
    def __call__(self, signals):
        hidden = nn.relu(nn.Conv(6, (3,))(signals))
        return nn.Dense(4)(hidden.reshape(len(hidden), -1))


class Words(nn.Module):
    """Takes `deterministic`, as transformers do."""

    @nn.compact
    def __call__(self, words, *, deterministic):
        hidden = nn.Embed(7, 6)(words).mean(axis=1)
        return nn.BatchNorm(use_running_average=deterministic)(hidden)


class Images(nn.Module):
    """Takes `train`, with BatchNorm."""

    @nn.compact
    def __call__(self, images, train):
        hidden = nn.Dense(6, use_bias=False)(images.reshape(len(images), -1))
        return nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))


def init_rows(key, rows):
    return {"kernel": jax.random.normal(key, (rows.shape[1], 4))}


def apply_rows(params, rows):
    return rows @ params["kernel"]


def cut(key, signal):
    """Eight samples of twelve, from anywhere."""
    start = jax.random.randint(key, (), 0, 5)
    return jax.lax.dynamic_slice_in_dim(signal, start, 8)


def middle(signal):
    return signal[2:10]


def noisy(key, example):
    return example + 0.1 * jax.random.normal(key, example.shape)


def masked(key, words):
    return jnp.where(jax.random.bernoulli(key, 0.3, words.shape), 0, words)


class Case(NamedTuple):
    """What a run is built of, and (params, stats, examples) -> features by hand."""

    parts: dict[str, Any]
    examples: np.ndarray
    by_hand: Any
    has_labels: bool = True
    has_stats: bool = False


def with_stats(module, **mode):
    def apply(params, stats, examples):
        return module.apply({"params": params, "batch_stats": stats}, examples, **mode)

    return apply


BYTES = np.random.default_rng(1).integers(256, size=(COUNT, 4, 4, 1), dtype=np.uint8)
CASES = {
    "signals": Case(
        {"encoder": Signals(), "views": (cut, cut), "evaluation_view": middle},
        draw((12, 2)),
        lambda params, _, x: Signals().apply({"params": params}, x[:, 2:10]),
    ),
    "tables": Case(
        {"encoder": (init_rows, apply_rows), "views": [noisy, noisy]},
        draw((5,)),
        lambda params, _, x: apply_rows(params, x),
        has_labels=False,
    ),
    "tables, projected": Case(
        {
            "encoder": (init_rows, apply_rows),
            "views": [noisy, noisy],
            "projector": (6, 3),
        },
        draw((5,)),
        lambda params, _, x: apply_rows(params["backbone"], x),
        has_labels=False,
    ),
    "words": Case(
        {"encoder": Words(), "views": (masked, masked)},
        np.random.default_rng(2).integers(1, 7, size=(COUNT, 9), dtype=np.int32),
        with_stats(Words(), deterministic=True),
        has_labels=False,
        has_stats=True,
    ),
    "images": Case(
        {
            "encoder": Images(),
            "projector": (4,),
            "views": caco_jax.Views((noisy, noisy), mean=(0.5,), std=(0.25,)),
        },
        BYTES,
        # Evaluation sees the encoder's output, not the projector's.
        lambda params, stats, x: with_stats(Images(), train=False)(
            params["backbone"], stats["backbone"], (x / 255 - 0.5) / 0.25
        ),
        has_stats=True,
    ),
}


def build(case, devices, **changes):
    """A run of two epochs of two steps, on one device."""
    parts: dict[str, Any] = {
        "method": methods.simclr(temperature=0.5),
        "data": (case.examples, LABELS) if case.has_labels else case.examples,
        "batch_size": 20,
        "epochs": 2,
        "evaluation": EvaluationConfig(knn_every_epochs=1, knn_neighbours=3),
        "mesh": make_mesh(devices[:1]),
        **case.parts,
    }
    return Pretraining(**{**parts, **changes})


@pytest.mark.parametrize("name", CASES)
def test_any_encoder_is_trained_on_any_examples_and_embeds_them(
    tmp_path, devices, name
):
    case = CASES[name]
    run = build(case, devices)
    summary = run.fit(tmp_path)
    assert (summary["epochs"], summary["steps"], summary["images"]) == (2, 4, 80)
    rows = Workdir(tmp_path).read_metrics()
    assert np.isfinite([row["loss"] for row in rows]).all()
    assert [(row["knn"] is not None) for row in rows] == [case.has_labels] * 2
    assert run.data.has_labels == case.has_labels
    assert run.data.train_count == (46 if case.has_labels else COUNT)

    loaded = run.load(tmp_path)
    params, stats = loaded.network
    before = run.new_network()
    for old, new in zip(*map(jax.tree.leaves, (before, loaded.network)), strict=True):
        assert not np.array_equal(old, new)
    assert bool(jax.tree.leaves(stats)) == case.has_stats

    found = loaded.embed(case.examples, batch_size=16)
    expected = jax.jit(case.by_hand)(params, stats, case.examples)
    np.testing.assert_allclose(found, expected, **CLOSE)
    again = caco_jax.load(
        tmp_path,
        encoder=case.parts["encoder"],
        projector=case.parts.get("projector"),
        evaluation_view=case.parts.get("evaluation_view"),
    )
    np.testing.assert_array_equal(again.embed(case.examples, batch_size=16), found)

    # The same call goes on; there is nothing left to do.
    left = snapshot(tmp_path)
    assert build(case, devices).fit(tmp_path) == summary
    assert snapshot(tmp_path) == left
    with pytest.raises(UserError, match=r"with another: seed \(0 in the run, 1 n"):
        run.replace(seed=1).fit(tmp_path)


def test_a_run_goes_on_for_longer_where_that_is_allowed(tmp_path, devices):
    run = build(CASES["tables"], devices, epochs=1)
    run.fit(tmp_path)
    longer = run.replace(epochs=3)
    with pytest.raises(UserError, match=r"training\.epochs \(1 in the run, 3 now\)"):
        longer.fit(tmp_path)
    summary = longer.fit(tmp_path, changes=["training.epochs"])
    assert (summary["epochs"], summary["steps"]) == (3, 6)
    assert [row["step"] for row in Workdir(tmp_path).read_metrics()] == [2, 4, 6]


def test_labels_of_any_kind_name_the_classes_and_hold_a_tenth_out(devices):
    words = np.array(["no", "yes"])[LABELS]
    case = CASES["tables"]
    run = build(case, devices, data=(case.examples, words))
    assert run.data.class_names == ("no", "yes")
    assert np.bincount(run.data.train_labels).tolist() == [23, 23]
    assert np.bincount(run.data.test_labels).tolist() == [2, 2]


# A third player: the temperature of InfoNCE, which ascends what the encoder descends.


def hot_payoff(players, context, views):
    network = methods.Network(players["encoder"], context.stats)
    queries, network = context.encode.online(network, views[0])
    keys, network = context.encode.online(network, views[1])
    logits = queries @ keys.T / jnp.exp(players["temperature"])
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.arange(len(logits))
    )
    metrics = {"log_temperature": players["temperature"]}
    return losses.mean(), Outcome(network.stats, None, {}, metrics)


HOT = Method(
    name="hot",
    description="an encoder against a temperature",
    moves={"encoder": "descend", "temperature": "ascend"},
    uses_target=False,
    init=lambda key: ({"temperature": jnp.log(0.3)}, {}),
    payoff=hot_payoff,
    advance=lambda players, extra, outcome: (players, extra),
)


def build_hot(devices, **changes):
    case = CASES["images"]
    return build(
        case,
        devices,
        method=HOT,
        optimizers={"temperature": optax.sgd(0.1), "encoder": OptimizerConfig()},
        data=case.examples[:48],
        batch_size=16,
        mesh=make_mesh(devices),
        **changes,
    )


class StopAt(Stop):
    """Is told to stop at a step."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def requested(self):
        self.left -= 1
        return self.left <= 0


@pytest.fixture(scope="module")
def hot(tmp_path_factory, devices):
    """Such a run on one device: (its parts, its directory)."""
    run, path = build_hot(devices[:1]), tmp_path_factory.mktemp("hot")
    run.fit(path)
    return run, path


def test_an_own_player_ascends_the_payoff(hot, devices):
    run, _ = hot
    state = run.initial_state()
    images = CASES["images"].examples[:16]

    def after_a_step(state):
        return run.training_step()(state, images)[0].players

    def payoff(players):
        key = jax.random.fold_in(run.keys.steps, 0)
        views = caco_jax.data.make_views(run.views)(key, images)
        context = methods.Context(state.stats, None, {}, run.encode())
        return hot_payoff(players, context, list(map(View, views)))[0]

    players = jax.jit(after_a_step)(state)
    gradient = jax.jit(jax.grad(payoff))(state.players)["temperature"]
    assert abs(gradient) > 0.01
    moved = players["temperature"] - state.players["temperature"]
    np.testing.assert_allclose(moved, 0.1 * gradient, rtol=1e-4)


def test_it_is_the_same_on_eight_devices(hot, devices, tmp_path):
    run, path = hot
    build_hot(devices).fit(tmp_path)
    rows, wanted = (Workdir(folder).read_metrics() for folder in (tmp_path, path))
    for row, want in zip(rows, wanted, strict=True):
        assert row.keys() == want.keys()
        for name in row.keys() - {"knn"}:
            np.testing.assert_allclose(row[name], want[name], **CLOSE)
    found, expected = run.load(tmp_path).state, run.load(path).state
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, **CLOSE), found, expected
    )


@pytest.mark.parametrize("step", [2, 5])
def test_stopped_within_an_epoch_it_ends_in_the_same_bits(hot, tmp_path, step):
    run, path = hot
    with pytest.raises(Stopped, match=f"^saved at step {step}; rerun the same"):
        run.fit(tmp_path, stop=StopAt(step))
    assert int(run.load(tmp_path).state.step) == step
    run.fit(tmp_path)
    assert_trees_equal(run.load(tmp_path).state, run.load(path).state)
    metrics = [Workdir(folder).metrics_file for folder in (tmp_path, path)]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()


# The program.


class Lowered(Exception):
    """Has the text of the program that was about to run."""


@pytest.mark.parametrize(
    "changes",
    [{}, {"skip_nonfinite": 2}, {"shard_encoder": True}],
    ids=["plain", "skipping", "sharded"],
)
def test_what_is_lowered_is_what_fit_runs(devices, tmp_path, changes):
    run = build_hot(devices, **changes)
    text = run.lower_step().as_text()
    running = copy.copy(run)

    def dispatch(*how):
        def lower(*inputs):
            raise Lowered(run.dispatch(*how).lower(*inputs).as_text())

        return lower

    running.dispatch = dispatch
    with pytest.raises(Lowered) as found:
        running.fit(tmp_path)
    assert text == str(found.value)
    assert "stablehlo.is_finite" in text
    # What undoes a step, and what gathers an encoder, is there where it is asked for.
    plain = build_hot(devices).lower_step().as_text()
    undoing = text.count("stablehlo.select") - plain.count("stablehlo.select")
    assert (undoing > 0) == ("skip_nonfinite" in changes)
    assert (text == plain) == (not changes)


# What cannot be.


class NotRows(nn.Module):
    @nn.compact
    def __call__(self, signals):
        return nn.Dense(4)(signals)


class Forgetful(nn.Module):
    @nn.compact
    def __call__(self, words, *, deterministic):
        hidden = nn.Embed(7, 6)(words).mean(axis=1)
        return nn.Dropout(0.5, deterministic=deterministic)(hidden)


def broken(key, example):
    raise ZeroDivisionError("nothing to see\nin here")


SIGNALS = CASES["signals"].examples


@pytest.mark.parametrize(
    "name, changes, message",
    [
        (
            "signals",
            {"encoder": NotRows()},
            "encoder: expected embeddings [N, D], NotRows gives (20, 8, 4) for 20 "
            "views",
        ),
        (
            "tables",
            {"encoder": (lambda key, rows: {"kernel": jnp.ones((3, 4))}, apply_rows)},
            "encoder: expected a network for views of shape (5,) (float32), apply_rows "
            "raises TypeError: dot_general requires contracting dimensions to have the "
            "same shape, got (5,) and (3,).",
        ),
        (
            "words",
            {"encoder": Forgetful()},
            "encoder: expected a network for views of shape (9,) (int32), Forgetful "
            'raises InvalidRngError: Dropout_0 needs PRNG for "dropout" '
            "(https://flax.readthedocs.io/en/latest/api_reference/flax.errors.html"
            "#flax.errors.InvalidRngError)",
        ),
        (
            "tables",
            {"encoder": 3},
            "encoder: expected a flax.linen module, a pair of functions (init, apply) "
            "or EncoderFunctions, got int; for an nnx or equinox module pass (init, "
            "apply)",
        ),
        (
            "tables",
            {"projector": 4},
            "projector: expected a flax.linen module or the widths of layers, such as "
            "(128, 64), got 4",
        ),
        (
            "tables",
            {"views": (noisy, broken)},
            "views: expected functions (key, example) -> example for examples of "
            "arrays, ShapeDtypeStruct(shape=(1, 5), dtype=float32); they raise "
            "ZeroDivisionError: nothing to see",
        ),
        ("tables", {"views": (noisy,)}, "views: expected two views for simclr, got 1"),
        (
            "tables",
            {"views": noisy},
            "views: expected a sequence of functions (key, example) -> example, got "
            "noisy; write views=(my_view, my_view)",
        ),
        (
            "tables",
            {"optimizers": {"bank": optax.sgd(0.1)}},
            "optimizers: expected some of encoder, the players of simclr that move; "
            "got ['bank']",
        ),
        (
            "tables",
            {"optimizers": {"encoder": OptimizerConfig(learning_rate=0.0)}},
            "optimizer.learning_rate: expected a number in (0, inf), got 0; only the "
            "other players may stay as they are",
        ),
        (
            "tables",
            {"optimizers": {"encoder": OptimizerConfig(warmup_epochs=9)}, "epochs": 3},
            "optimizer.warmup_epochs: expected at most training.epochs (3), got 9",
        ),
        (
            "tables",
            {"optimizers": {"encoder": 0.1}},
            "optimizers: expected an optax transformation or an OptimizerConfig for "
            "encoder, got 0.1",
        ),
        (
            "tables",
            {"batch_size": 51},
            "batch_size: expected at most 50, the training images of arrays, got 51",
        ),
        (
            "tables",
            {"microbatches": 3},
            "microbatches: expected parts of the batch that the 1 devices share "
            "evenly, got 3 parts of 6 images",
        ),
        (
            "tables",
            {"method": "simclr"},
            "method: expected caco_jax.methods.caco(...) or its like, a Method, or a "
            "function embedding_dim -> Method, got 'simclr'",
        ),
        (
            "signals",
            {"data": (SIGNALS, LABELS[:3])},
            "data: expected a label for each of 50 examples, got labels (3,)",
        ),
        (
            "signals",
            {"data": SIGNALS[0, 0]},
            "data: expected numbers, examples [M, ...] of one shape, M at least 2, got "
            "float32 (2,)",
        ),
        (
            "words",
            {"method": methods.adversarial(methods.simclr(), epsilon=0.1)},
            "encoder: Words has BatchNorm and takes no `branch`; an input adversary "
            "(CLAE) needs BatchNorm with an adversarial twin, such as "
            "caco_jax.nets.BatchNorm(adversarial_branch=True), and a network that "
            "hands `branch` on to it; or a network without BatchNorm",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(devices, name, changes, message):
    with pytest.raises(ConfigError) as found:
        build(CASES[name], devices, **changes)
    assert str(found.value) == message


def test_an_argument_that_there_is_not_is_a_type_error(devices):
    with pytest.raises(TypeError) as found:
        build(CASES["tables"], devices, batchsize=4)
    assert str(found.value) == (
        "Pretraining has no argument 'batchsize'; did you mean batch_size?"
    )


def test_rows_that_the_devices_do_not_share_evenly_are_refused(devices):
    many = {"mesh": make_mesh(devices)}
    with pytest.raises(ConfigError) as found:
        build(CASES["tables"], devices, **many)
    assert str(found.value) == (
        "batch_size: expected a multiple of the 8 devices, got 20"
    )
    odd = HOT._replace(
        init=lambda key: ({"temperature": jnp.zeros((3, 2))}, {}),
        row_sharded={"temperature": "entries"},
    )
    with pytest.raises(ConfigError) as found:
        build(CASES["tables"], devices, **many, method=odd, batch_size=16)
    assert str(found.value) == (
        "method.entries: expected a multiple of the 8 devices, got 3"
    )


def test_neighbours_are_at_most_the_labelled_training_images(devices):
    (case,) = [case for case in CASES.values() if case.has_labels][:1]
    build(case, devices, evaluation=EvaluationConfig(knn_neighbours=46))
    for evaluation, most in (
        (EvaluationConfig(knn_neighbours=47), 46),
        (EvaluationConfig(knn_neighbours=47, knn_train_images=10), 10),
    ):
        with pytest.raises(ConfigError) as found:
            build(case, devices, evaluation=evaluation)
        assert str(found.value) == (
            f"evaluation.knn_neighbours: expected at most {most}, the training images "
            "that neighbours are found among, got 47"
        )


def test_an_adversary_joins_a_network_without_batchnorm(devices):
    run = build(
        CASES["signals"],
        devices,
        method=methods.adversarial(methods.simclr(), epsilon=0.1),
    )
    assert run.method.twin
    assert "CLAE" in run.method.description


# Reading it back.


class Rows(NamedTuple):
    """Parameters in a container whose fields are in no alphabet's order."""

    weights: Any
    bias: Any


def test_parameters_come_back_in_their_own_containers(tmp_path, devices):
    def init(key, rows):
        return Rows(jax.random.normal(key, (rows.shape[1], 4)), jnp.ones((4, 1)))

    def apply(params, rows):
        return rows @ params.weights + params.bias.T

    run = build(CASES["tables"], devices, encoder=(init, apply), epochs=1)
    run.fit(tmp_path)
    found = caco_jax.load(tmp_path, encoder=(init, apply))
    assert isinstance(found.network.params, Rows)
    rows = run.data.train_examples
    np.testing.assert_array_equal(found.embed(rows), run.load(tmp_path).embed(rows))
    with pytest.raises(
        UserError, match=r"expected the .*apply that .* the array 'kernel'"
    ):
        caco_jax.load(tmp_path, encoder=(init_rows, apply))


def test_a_run_of_objects_is_read_with_its_encoder_or_not_at_all(hot):
    run, path = hot
    encoder, projector = Images(), (4,)
    module = run.description.values["encoder"]["module"]
    for load, message in [
        (
            lambda: caco_jax.load(path),
            f"encoder: {path} was built in Python with Images; pass it: "
            "load(workdir, encoder=...)",
        ),
        (
            lambda: load_run(path),
            f"--workdir: expected a run of a configuration, got {path}, which was "
            f"built in Python (Images); evaluate it there: "
            f"Pretraining(...).load({str(path)!r})",
        ),
        (
            lambda: caco_jax.load(path, encoder=encoder),
            f"encoder: {path} was trained with {module}, got {{'class': 'Images'}}",
        ),
        (
            lambda: caco_jax.load(
                path, encoder=encoder, projector=projector, evaluation_view=middle
            ),
            "evaluation_view: expected {'class': 'PlainView'}, as in training, got "
            "middle",
        ),
    ]:
        with pytest.raises(UserError) as found:
            load()
        assert str(found.value) == message
