"""The optimisers against loops in NumPy, and against PyTorch where it is installed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caco_jax.optim import optimizers

RATES = (0.3, 1.2, 0.05, 0.6)
SHAPES = {
    "conv": (2, 2, 3),
    "dense": (3, 4),
    "zeros": (3, 4),
    "bias": (4,),
    "scalar": (),
}


def _rate(step):
    return jnp.asarray(RATES)[step]


@functools.cache
def _problem():
    """Parameters and one gradient a step; "dense" has a zero gradient at step 1."""
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    params["zeros"] = np.zeros(SHAPES["zeros"])
    grads = [
        {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
        for _ in RATES
    ]
    grads[1]["dense"] = np.zeros(SHAPES["dense"])
    return params, grads


def _run(tx):
    """Parameters after each step, in float64."""
    with jax.enable_x64(True):
        params, grads = jax.tree.map(jnp.asarray, _problem())
        state, update, history = tx.init(params), jax.jit(tx.update), []
        for grad in grads:
            updates, state = update(grad, state, params)
            params = optax.apply_updates(params, updates)
            history.append(jax.tree.map(np.asarray, params))
        return history


def _loop(direction, *, momentum, rates=RATES):
    """The recursion v ← μ v + direction(g, p, η); p ← p − η v, in NumPy."""
    params, grads = _problem()
    velocity = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    history = []
    for grad, rate in zip(grads, rates, strict=True):
        velocity = {
            name: momentum * velocity[name] + direction(grad[name], params[name], rate)
            for name in params
        }
        params = {name: params[name] - rate * velocity[name] for name in params}
        history.append(params)
    return history


def _assert_same(got, want):
    for ours, theirs in zip(got, want, strict=True):
        for name in SHAPES:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-11, atol=1e-14)


def test_sgd_is_heavy_ball_with_decay_in_the_gradient():
    tx = optimizers.sgd(_rate, momentum=0.9, weight_decay=0.01)
    _assert_same(_run(tx), _loop(lambda g, p, _: g + 0.01 * p, momentum=0.9))


def test_ascend_turns_the_gradient_and_not_the_decay():
    tx = optimizers.ascend(optimizers.sgd(0.5, momentum=0.8, weight_decay=0.02))
    want = _loop(lambda g, p, _: -g + 0.02 * p, momentum=0.8, rates=[0.5] * len(RATES))
    _assert_same(_run(tx), want)


def test_lars_scales_matrices_only():
    def direction(g, p, _):
        if np.ndim(p) < 2:
            return g
        u = g + 1e-3 * p
        lengths = np.sqrt((p**2).sum()), np.sqrt((u**2).sum())
        return u * 0.02 * lengths[0] / lengths[1] if min(lengths) > 0 else u

    tx = optimizers.lars(_rate, momentum=0.9, weight_decay=1e-3, trust_coefficient=0.02)
    _assert_same(_run(tx), _loop(direction, momentum=0.9))


@pytest.mark.parametrize("clip", [False, True])
def test_larc(clip):
    def direction(g, p, rate):
        length, slope = np.sqrt((p**2).sum()), np.sqrt((g**2).sum())
        if length == 0 or slope == 0:
            return g
        local = 0.3 * length / (slope + 0.1 * length + 1e-8)
        return (g + 0.1 * p) * (min(local / rate, 1.0) if clip else local)

    tx = optimizers.larc_sgd(_rate, weight_decay=0.1, trust_coefficient=0.3, clip=clip)
    _assert_same(_run(tx), _loop(direction, momentum=0.9))


def test_larc_at_rate_zero_moves_nothing():
    for history in _run(optimizers.larc_sgd(0.0, clip=True)):
        np.testing.assert_array_equal(history["conv"], _problem()[0]["conv"])


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_adam_against_a_loop(decay):
    params, grads = _problem()
    first = second = np.zeros(SHAPES["conv"])
    want, param = [], params["conv"]
    for step, grad in enumerate(grads, start=1):
        g = grad["conv"] + decay * param
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        root = np.sqrt(second / (1 - 0.999**step))
        param = param - 0.1 * first / (1 - 0.9**step) / (root + 1e-8)
        want.append(param)
    got = _run(optimizers.adam(0.1, weight_decay=decay))
    np.testing.assert_allclose([p["conv"] for p in got], want, rtol=1e-9)


def test_adamw_decays_matrices_by_the_rate_and_no_moment_sees_it():
    params = {"kernel": np.full((2, 2), 3.0), "bias": np.full(2, 3.0)}
    names = ("cls_token", "pos_embed")
    params = {"block": params, **{name: np.full((1, 3, 2), 3.0) for name in names}}
    tx = optimizers.adamw(0.1, weight_decay=0.5)
    for gradient in (0.0, 2.0):  # Adam's first step is as long as the rate
        grads = jax.tree.map(lambda leaf, g=gradient: np.full(leaf.shape, g), params)
        updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
        step = -0.1 * np.sign(gradient)
        kernel = updates["block"].pop("kernel")
        np.testing.assert_allclose(kernel, step - 0.1 * 0.5 * 3, rtol=1e-5)
        for update in jax.tree.leaves(updates):
            np.testing.assert_allclose(update, step, rtol=1e-5)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_pytorch_takes_the_same_steps(name):
    torch = pytest.importorskip("torch")
    params, grads = _problem()
    theirs = {n: torch.tensor(p, requires_grad=True) for n, p in params.items()}
    extra = {"momentum": 0.9} if name == "SGD" else {}
    groups = [{"params": list(theirs.values())}]
    if name == "AdamW":  # decays what it is told to
        short = {n: t for n, t in theirs.items() if t.ndim < 2}
        groups[0]["params"] = [t for n, t in theirs.items() if n not in short]
        groups.append({"params": list(short.values()), "weight_decay": 0.0})
    optimiser = getattr(torch.optim, name)(groups, lr=1.0, weight_decay=0.01, **extra)
    want = []
    for grad, rate in zip(grads, RATES, strict=True):
        for group in optimiser.param_groups:
            group["lr"] = rate
        for n, tensor in theirs.items():
            tensor.grad = torch.tensor(grad[n])
        optimiser.step()
        want.append({n: t.detach().numpy().copy() for n, t in theirs.items()})
    ours = getattr(optimizers, name.lower())(_rate, weight_decay=0.01, **extra)
    for got, expected in zip(_run(ours), want, strict=True):
        for n in SHAPES:
            np.testing.assert_allclose(got[n], expected[n], rtol=1e-8, atol=1e-12)


@jax.jit
def _first_lars_step(param, grad):
    tx = optimizers.lars(1.0, weight_decay=0.0, trust_coefficient=0.01)
    updates, _ = tx.update({"w": grad}, tx.init({"w": param}), {"w": param})
    return updates["w"]


@settings(max_examples=20, deadline=None)
@given(st.integers(-3, 3), st.integers(-3, 3))
def test_lars_step_has_the_length_of_the_matrix_not_of_the_gradient(of_param, of_grad):
    rng = np.random.default_rng(1)
    param, grad = rng.standard_normal((2, 4, 5)).astype(np.float32)
    param, grad = param * np.float32(10.0**of_param), grad * np.float32(10.0**of_grad)
    step = _first_lars_step(param, grad)
    np.testing.assert_allclose(
        np.linalg.norm(step), 0.01 * np.linalg.norm(param), rtol=1e-4
    )


@pytest.mark.parametrize("decay", [1e-6, 1e-2])
def test_lars_zero_gradient_shrinks_by_the_trust_coefficient(decay):
    param = {"w": jnp.arange(1.0, 7.0).reshape(2, 3)}
    tx = optimizers.lars(1.0, weight_decay=decay, trust_coefficient=0.01)
    updates, _ = tx.update({"w": jnp.zeros((2, 3))}, tx.init(param), param)
    np.testing.assert_allclose(updates["w"], -0.01 * param["w"], rtol=1e-5)


@pytest.mark.parametrize("make", [optimizers.lars, optimizers.larc_sgd])
def test_zero_parameters_take_the_raw_gradient(make):
    param, grad = {"w": jnp.zeros((2, 3))}, {"w": jnp.ones((2, 3))}
    tx = make(0.5)
    updates, state = tx.update(grad, tx.init(param), param)
    np.testing.assert_array_equal(updates["w"], -0.5 * grad["w"])
    still, _ = tx.update({"w": jnp.zeros((2, 3))}, state, param)
    assert np.isfinite(still["w"]).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("name", ["sgd", "lars", "adam", "adamw", "larc_sgd"])
def test_players_of_one_game_keep_tree_and_dtypes(name, dtype):
    extra = {"momentum": 0.9, "weight_decay": 1e-4} if name == "sgd" else {}
    tx = optax.partition(
        {
            "encoder": getattr(optimizers, name)(_rate, **extra),
            "bank": optimizers.ascend(
                optimizers.sgd(3.0, momentum=0.9, weight_decay=0.0)
            ),
        },
        {"encoder": "encoder", "bank": "bank"},
    )
    params = {
        "encoder": {"kernel": jnp.ones((3, 2), dtype), "bias": jnp.ones(2, dtype)},
        "bank": jnp.ones((4, 2), dtype),
    }
    grads = jax.tree.map(jnp.ones_like, params)
    update = jax.jit(tx.update)
    state = tx.init(params)
    for _ in range(2):
        updates, after = update(grads, state, params)
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
        assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(
            lambda x: x.dtype, state
        )
        assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(
            lambda x: x.dtype, params
        )
        assert (updates["bank"] > 0).all() and (updates["encoder"]["bias"] < 0).all()
        state = after
    assert update._cache_size() == 1


def test_ema_update():
    target = {"a": jnp.asarray([1.0, 2.0]), "b": jnp.ones((2, 2), jnp.bfloat16)}
    online = {"a": jnp.asarray([3.0, 6.0]), "b": jnp.zeros((2, 2), jnp.bfloat16)}
    update = jax.jit(optimizers.ema_update)
    moved = update(target, online, momentum=0.75)
    np.testing.assert_allclose(moved["a"], [1.5, 3.0])
    np.testing.assert_allclose(moved["b"].astype(np.float32), 0.75)
    assert moved["b"].dtype == jnp.bfloat16
    for momentum, end in ((1.0, target), (0.0, online)):
        rested = update(target, online, momentum=momentum)
        assert jax.tree.all(jax.tree.map(np.array_equal, rested, end))
    with pytest.raises(ValueError, match="key"):
        optimizers.ema_update(target, {"a": online["a"]}, momentum=0.5)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (optimizers.sgd, {"momentum": 1.0, "weight_decay": 0}, r"momentum: .*got 1\.0"),
        (
            optimizers.sgd,
            {"momentum": 0.9, "weight_decay": -1},
            "weight_decay: .*got -1",
        ),
        (optimizers.lars, {"trust_coefficient": 0.0}, r"trust_coefficient: .*got 0\.0"),
        (optimizers.lars, {"momentum": float("nan")}, "momentum: .*got nan"),
        (optimizers.larc_sgd, {"trust_coefficient": -1}, "trust_coefficient: .*got -1"),
        (optimizers.adam, {"b1": -0.1}, r"b1: .*got -0\.1"),
        (optimizers.adamw, {"b2": 1.0}, r"b2: .*got 1\.0"),
        (optimizers.adam, {"weight_decay": float("nan")}, "weight_decay: .*got nan"),
    ],
)
def test_bad_hyper_parameters(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(0.1, **arguments)


def test_larc_needs_the_parameters():
    tx = optimizers.larc_sgd(0.1)
    with pytest.raises(ValueError, match="larc_sgd: params: expected the param"):
        tx.update({"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)}))
