"""BatchNorm and GroupNorm against NumPy oracles: groups, twin, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from caco_jax.nets import BatchNorm, GroupNorm, ResNet

SHAPE = (16, 3, 2, 5)


def _images(seed=0, shape=SHAPE, mean=3.0):
    return np.random.default_rng(seed).normal(mean, 2.0, shape)


def _variables(norm, x):
    """Initialised, then moved away from where scale, bias and statistics start."""
    variables = norm.init(jax.random.key(0), x, train=False)
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype),
        variables,
    )


def _train(norm, variables, x, **options):
    y, new = norm.apply(variables, x, train=True, mutable="batch_stats", **options)
    return y, new["batch_stats"]


def _oracle(variables, x, *, size, momentum, prefix=""):
    """Group by group: (output, running mean, running variance)."""
    params, stats = variables["params"], variables["batch_stats"]
    outputs, means, unbiased = [], [], []
    for start in range(0, len(x), size):
        group = x[start : start + size]
        rows = group.reshape(-1, x.shape[-1])
        mean, var = rows.mean(0), rows.var(0)
        outputs.append(
            (group - mean) / np.sqrt(var + 1e-5) * np.asarray(params[prefix + "scale"])
            + np.asarray(params[prefix + "bias"])
        )
        means.append(mean)
        unbiased.append(rows.var(0, ddof=1))

    def move(name, batch):
        return (1 - momentum) * np.asarray(stats[name]) + momentum * np.mean(batch, 0)

    running = move(prefix + "mean", means), move(prefix + "var", unbiased)
    return np.concatenate(outputs), *running


@pytest.mark.parametrize("size", [None, 4, 2])
@pytest.mark.parametrize("branch", ["clean", "adversarial"])
@pytest.mark.parametrize("shape", [SHAPE, (16, 5)])
def test_training_matches_oracle_and_moves_only_its_branch(size, branch, shape):
    norm = BatchNorm(
        group_size=size, adversarial_branch=True, param_dtype=jnp.float64, momentum=0.1
    )
    prefix = "" if branch == "clean" else "adversarial_"
    with jax.enable_x64(True):
        x = jnp.asarray(_images(shape=shape))
        variables = _variables(norm, x)
        y, stats = _train(norm, variables, x, branch=branch)
        want = _oracle(
            variables,
            np.asarray(x),
            size=size or 16,
            momentum=0.1 if branch == "clean" else 0.01,
            prefix=prefix,
        )
        moved = {prefix + "mean", prefix + "var"}
        for got, wanted in zip(
            (y, stats[prefix + "mean"], stats[prefix + "var"]), want, strict=True
        ):
            assert got.dtype == jnp.float64
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-12)
        for name, value in stats.items():
            same = np.array_equal(value, variables["batch_stats"][name])
            assert same == (name not in moved), name


def test_gradient_is_the_derivative():
    norm = BatchNorm(param_dtype=jnp.float64, group_size=2)
    with jax.enable_x64(True):
        x = jnp.asarray(_images(shape=(4, 2, 3)))
        variables = _variables(norm, x)
        weights = jnp.asarray(_images(2, x.shape))

        def loss(params, x):
            y, _ = _train(norm, {**variables, "params": params}, x)
            return jnp.vdot(weights, jnp.tanh(y))

        check_grads(
            loss, (variables["params"], x), order=1, modes=["rev"], atol=1e-6, rtol=1e-6
        )


def test_evaluation_uses_running_statistics_whatever_the_batch():
    norm = BatchNorm(group_size=3)  # does not divide the batch, and need not here
    x = jnp.asarray(_images(), jnp.float32)
    variables = _variables(norm, x)
    params, stats = variables["params"], variables["batch_stats"]
    y = norm.apply(variables, x, train=False)
    want = (_images() - np.asarray(stats["mean"])) / np.sqrt(
        np.asarray(stats["var"]) + 1e-5
    ) * np.asarray(params["scale"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(y, want, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(norm.apply(variables, x[:1], train=False), y[:1])


def test_twin_exists_after_one_initialisation_only_where_asked():
    x = jnp.zeros((1, 4))
    for branch in ("clean", "adversarial"):
        both = BatchNorm(adversarial_branch=True).init(
            jax.random.key(0), x, train=True, branch=branch
        )
        assert both["params"].keys() == {
            "scale",
            "bias",
            "adversarial_scale",
            "adversarial_bias",
        }
        assert both["batch_stats"].keys() == {
            "mean",
            "var",
            "adversarial_mean",
            "adversarial_var",
        }
        for stats in both["batch_stats"].items():
            np.testing.assert_array_equal(stats[1], float(stats[0].endswith("var")))
    alone = BatchNorm().init(jax.random.key(0), x, train=True)
    assert alone["params"].keys() == {"scale", "bias"}
    assert alone["batch_stats"].keys() == {"mean", "var"}


@pytest.mark.parametrize("size", [None, 2])
def test_eight_devices_agree_with_one(devices, size):
    norm = BatchNorm(group_size=size)
    x = jnp.asarray(_images(), jnp.float32)
    variables = _variables(norm, x)

    @jax.jit
    def step(variables, x):
        def loss(x):
            y, stats = _train(norm, variables, x)
            return jnp.sum(jnp.sin(y)), (y, stats)

        return jax.grad(loss, has_aux=True)(x)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    replicated = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    lowered = step.lower(replicated, sharded).compile()
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6),
        step(replicated, sharded),
        step(variables, x),
    )
    # Nothing may gather the batch; groups that fit a device exchange only their means.
    assert "all-gather" not in lowered.as_text()


def test_large_mean_does_not_cancel_once_the_running_mean_has_followed():
    x = jnp.asarray(_images(mean=3000.0), jnp.float32)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=False)
    for _ in range(100):
        y, variables["batch_stats"] = _train(norm, variables, x)
    exact = np.asarray(x, np.float64)
    want = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
    np.testing.assert_allclose(y, want, atol=2e-4)


def test_bfloat16_is_normalised_in_float32():
    x = jnp.asarray(_images(), jnp.bfloat16)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=False)
    y, stats = _train(norm, variables, x)
    assert y.dtype == jnp.bfloat16
    assert stats["mean"].dtype == stats["var"].dtype == jnp.float32
    wide, wide_stats = _train(norm, variables, x.astype(jnp.float32))
    np.testing.assert_array_equal(y, wide.astype(jnp.bfloat16))
    jax.tree.map(np.testing.assert_array_equal, stats, wide_stats)
    low = BatchNorm(param_dtype=jnp.bfloat16).init(jax.random.key(0), x, train=False)
    assert low["params"]["scale"].dtype == jnp.bfloat16
    assert low["batch_stats"]["var"].dtype == jnp.float32


def test_dtype_sets_the_output():
    x = jnp.ones((4, 3), jnp.float32)
    y, _ = BatchNorm(dtype=jnp.bfloat16).init_with_output(
        jax.random.key(0), x, train=False
    )
    assert y.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "options, branch, shape, message",
    [
        ({}, "adversarial", (4, 3), r"one of \['clean'\], got 'adversarial'; adv"),
        ({"adversarial_branch": True}, "dirty", (4, 3), "branch: .* got 'dirty'"),
        ({"group_size": 3}, "clean", (4, 3), "a divisor of the batch of 4, got 3"),
        ({"group_size": 0}, "clean", (4, 3), "a divisor of the batch of 4, got 0"),
        ({"group_size": 1}, "clean", (4, 3), r"one value per channel.*\(4, 3\)"),
        ({}, "clean", (1, 1, 1, 3), r"one value per channel.*\(1, 1, 1, 3\)"),
    ],
)
def test_errors(options, branch, shape, message):
    norm = BatchNorm(**options)
    x = jnp.ones(shape)
    variables = norm.init(jax.random.key(0), x, train=False)
    with pytest.raises(ValueError, match=message):
        _train(norm, variables, x, branch=branch)


@pytest.mark.parametrize(
    "shape, groups", [((3, 4, 2, 8), 4), ((3, 2, 2, 6), 1), ((3, 8), 1)]
)
def test_group_norm_matches_oracle(shape, groups):
    """Groups of two channels at least; a vector is one."""
    norm, x = GroupNorm(groups=4), jnp.asarray(_images(shape=shape), jnp.float32)
    variables = _variables(norm, x)
    assert jax.tree.map(jnp.shape, variables) == {
        "params": {"scale": shape[-1:], "bias": shape[-1:]}
    }
    parts = np.asarray(x, np.float64).reshape(3, -1, groups, shape[-1] // groups)
    centred = parts - parts.mean(axis=(1, 3), keepdims=True)
    scaled = centred / np.sqrt(parts.var(axis=(1, 3), keepdims=True) + 1e-5)
    want = scaled.reshape(shape) * np.asarray(variables["params"]["scale"])
    want += np.asarray(variables["params"]["bias"])
    for how in ({"train": False}, {"train": True}, {"branch": "adversarial"}):
        got = norm.apply(variables, x, **how)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_network_with_group_norm_has_no_statistics_and_rows_stay_apart():
    network = ResNet(stage_sizes=(1,), width=4, stem="small", norm=GroupNorm)
    x = jnp.asarray(_images(shape=(2, 4, 4, 3)), jnp.float32)
    variables = _variables_of_network(network, x)
    assert set(variables) == {"params"}
    run = jax.jit(lambda rows: network.apply(variables, rows, train=True))
    np.testing.assert_allclose(run(x)[:1], run(x.at[1].set(0.0))[:1], rtol=1e-6)


def _variables_of_network(network, x):
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), x, train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), shapes)
