"""Our candidates of the benchmarks: compiled bank game and whole steps.

Built without the configuration, whose packages a machine may lack. State is donated.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from caco_jax import methods
from caco_jax.methods.method import Method, Network
from caco_jax.nets import Encoder, ResNet, caco_projector, mlp_projector
from caco_jax.optim.optimizers import sgd
from caco_jax.training.encode import make_encode
from caco_jax.training.sharding import make_mesh
from caco_jax.training.sharding import rows as spread
from caco_jax.training.state import create_state
from caco_jax.training.step import make_optimizer, make_train_step
from experiments.benchmarks import profiles, timing
from experiments.benchmarks.bank import bank_step
from experiments.benchmarks.workers import Ready

RATE = 0.03
Views = Callable[[jax.Array, Any], Sequence[jax.Array]]


def machine() -> Ready:
    """Runs nothing; returns the machine and its device's memory."""

    def facts() -> dict[str, Any]:
        stats = jax.local_devices()[0].memory_stats() or {}
        names = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "triton")
        return timing.machine(names) | {"limit_bytes": stats.get("bytes_limit")}

    return Ready(lambda: None, lambda: None, facts)


def product(*, size: int, dtype: str) -> Ready:
    """A product of two square matrices in the full precision of their dtype."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), jnp.dtype(dtype)) for key in keys)
    multiply = jax.jit(functools.partial(jnp.matmul, precision="highest"))
    return _ready(multiply.lower(a, b).compile(), None, (a, b))


def bank(
    *,
    queries: int,
    entries: int,
    dim: int,
    temperature: float,
    bank_temperature: float,
    precision: str = "highest",
    devices: int = 1,
) -> Ready:
    """The bank game with momentum and the bank's update.

    Args:
        queries: N of each of two views.
        entries: K.
        dim: D.
        temperature: temperature of the encoder's loss.
        bank_temperature: temperature of the bank's payoff.
        precision: precision of the matrix products, as in `caco_loss`.
        devices: number of devices that rows of bank, queries and keys are sharded over.
    """
    keys = jax.random.split(jax.random.key(0), 3)
    table = jax.random.normal(keys[0], (entries, dim))
    rows, partners = (_unit(key, (2, queries, dim)) for key in keys[1:])

    def play(state: Any, rows: jax.Array, partners: jax.Array) -> tuple[Any, Any]:
        table, velocity = state
        table, velocity, loss, descent = bank_step(
            table,
            velocity,
            rows,
            partners,
            temperature=temperature,
            bank_temperature=bank_temperature,
            precision=precision,
        )
        return (table, velocity), (loss, descent)

    mesh = make_mesh(jax.devices()[:devices])
    state = jax.device_put((table, jnp.zeros_like(table)), spread(mesh))
    inputs = jax.device_put((rows, partners), spread(mesh, axis=1))
    with jax.set_mesh(mesh):
        compiled = jax.jit(play, donate_argnums=0).lower(state, *inputs).compile()
    return _ready(compiled, state, inputs)


def _unit(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    rows = jax.random.normal(key, shape)
    return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)


def caco(
    *,
    batch: int,
    pixels: int,
    network: dict[str, Any],
    widths: Sequence[int],
    entries: int,
    temperature: float,
    dtype: str,
    recolored: bool = False,
) -> Ready:
    """CaCo's whole step on two given views on the device.

    Args:
        batch: source images.
        pixels: of a view.
        network: `ResNet`'s attributes.
        widths: of the projector.
        entries: K of the bank.
        temperature: of both players.
        dtype: of the encoder's computation.
        recolored: whether the step gets uint8 crops and flips, recolours, blurs and
            normalises them; otherwise it gets finished views.
    """
    hidden, _, dim = widths
    parts: dict[str, Any] = {"dtype": jnp.dtype(dtype)}
    encoder = Encoder(ResNet(**network, **parts), caco_projector(hidden, dim, **parts))
    method = methods.caco(
        bank_size=entries, temperature=temperature, bank_temperature=temperature
    )(dim)
    shape = (batch, pixels, pixels, 3)
    make_views, images = _given(shape), _noise(shape)
    if recolored:
        from caco_jax.data import views

        make_views = views.make_views(views.caco(size_pixels=pixels))
        images = _bytes(shape)
    return training(method, encoder, make_views, (images, images), shape)


def simclr(
    *,
    batch: int,
    images: int,
    network: dict[str, Any],
    widths: Sequence[int],
    temperature: float,
    dtype: str,
) -> Ready:
    """SimCLR's whole step on CIFAR's views, made on the device from a resident set."""
    from caco_jax.data import views

    parts: dict[str, Any] = {"dtype": jnp.dtype(dtype)}
    encoder = Encoder(ResNet(**network, **parts), mlp_projector(*widths, **parts))
    method = methods.simclr(temperature=temperature)(widths[-1])
    make = views.make_views(views.cifar())

    def make_views(key: jax.Array, images: jax.Array) -> Sequence[jax.Array]:
        chosen = jax.random.choice(key, len(images), (batch,), replace=False)
        return make(key, images[chosen])

    pixels = _bytes((images, 32, 32, 3))
    return training(method, encoder, make_views, pixels, (batch, 32, 32, 3))


def training(
    method: Method,
    encoder: nn.Module,
    make_views: Views,
    images: Any,
    shape: tuple[int, ...],
) -> Ready:
    """The training step of a method, on the same images in each step."""
    moving = {name for name, move in method.moves.items() if move != "hold"}
    optimizer = make_optimizer(
        method, {name: sgd(RATE, momentum=0.9, weight_decay=1e-4) for name in moving}
    )
    step = make_train_step(
        method,
        encode=make_encode(encoder),
        make_views=make_views,
        optimizer=optimizer,
        target_momentum=optax.constant_schedule(0.99),
        key=jax.random.key(1),
    )

    def create(key: jax.Array) -> Any:
        example = jnp.zeros((2, *shape[1:]))
        variables = encoder.init(key, example, train=True)
        network = Network(variables["params"], variables.get("batch_stats", {}))
        return create_state(key, method, network, optimizer)

    state = jax.jit(create)(jax.random.key(0))
    compiled = jax.jit(step, donate_argnums=0).lower(state, images).compile()
    return _ready(compiled, state, (images,), images_a_step=shape[0])


def _given(shape: tuple[int, ...]) -> Views:
    """Given views; copied, so that no two share a buffer."""
    return lambda key, images: [image[: shape[0]] for image in images]


def _noise(shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(jax.random.key(2), shape)


def _bytes(shape: tuple[int, ...]) -> jax.Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8))


def _ready(compiled: Any, state: Any, inputs: Sequence[Any], **facts: Any) -> Ready:
    """Steps that continue from the state of the previous one, if any."""
    held: dict[str, Any] = {"state": state}

    def step() -> None:
        if state is None:
            held["out"] = compiled(*inputs)
        else:
            held["state"], held["out"] = compiled(held["state"], *inputs)

    def wait() -> None:
        jax.block_until_ready(held)

    def profile(folder: str) -> dict[str, float]:
        return profiles.seconds_by_part(compiled.as_text(), folder, step, wait)

    sizes = compiled.memory_analysis()
    peak = (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.temp_size_in_bytes
    )
    memory = {
        "memory_bytes": peak,
        "fixed_bytes": sizes.argument_size_in_bytes,
        "temporary_bytes": sizes.temp_size_in_bytes,
    }
    return Ready(step, wait, lambda: memory | facts, profile)
