"""Every method of the registry, small enough to compile in a second or two."""

import dataclasses
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from caco_jax.methods.adversarial import adversarial
from caco_jax.methods.method import Context, Network, View
from caco_jax.methods.registry import METHODS, make_method
from caco_jax.nets import BatchNorm
from caco_jax.optim import optimizers
from caco_jax.training.encode import make_encode
from caco_jax.training.state import create_state
from caco_jax.training.step import make_optimizer, make_train_step

BATCH, ENTRIES, DIM = 16, 24, 4
EPSILON, WEIGHT = 0.05, 0.7
KEY = jax.random.key(0)
# Methods that are a loss of two views, as SimCLR is: it stands for them where each case
# has to be compiled.
PAIR_LOSSES = ("plain", "uel", "alpha_cl")


class PixelEncoder(nn.Module):
    """Dense, BatchNorm and ReLU on each pixel, their mean, dense: for any size."""

    dtype: Any = None
    param_dtype: Any = jnp.float32
    adversarial_branch: bool = True
    group_size: int | None = None

    @nn.compact
    def __call__(self, images, *, train, branch="clean"):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Dense(8, use_bias=False, **dtypes)(images)
        norm = BatchNorm(
            adversarial_branch=self.adversarial_branch,
            group_size=self.group_size,
            **dtypes,
        )
        x = norm(x, train=train, branch=branch)
        x = nn.Dense(DIM, **dtypes)(nn.relu(x).mean((1, 2)))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def small_config(name):
    """The method's default settings with few entries in its bank or queue."""
    config_class, _ = METHODS[name]
    fields = {field.name for field in dataclasses.fields(config_class)}
    sizes = dict.fromkeys(fields & {"bank_size", "queue_size"}, ENTRIES)
    return config_class(**sizes)


def small_method(name, *, clae=False, **changes):
    config = dataclasses.replace(small_config(name), **changes)
    method = make_method(config, embedding_dim=DIM)
    if clae:
        method = adversarial(method, epsilon=EPSILON, weight=WEIGHT)
    return method


def cases():
    """(method, with CLAE, views) of the whole table."""
    for name, clae in itertools.product(METHODS, (False, True)):
        yield name, clae, 2
        if small_method(name).multicrop:
            yield name, clae, 4


def draw_images(count=BATCH):
    images = np.random.default_rng(1).standard_normal((count, 4, 4, 3))
    return images.astype(np.float32)


def make_views(num_views):
    """Views that depend on the image alone: two large ones, then small crops."""

    def views(key, images):
        del key
        large = [images, images[:, ::-1] * 0.8 + 0.1]
        small = [images[:, i : i + 2, :2] for i in range(num_views - 2)]
        return large + small

    return views


def make_step(
    method, encoder, num_views, *, change_encode=lambda encode: encode, **options
):
    rates = {"encoder": 0.1, "bank": 1.0}
    optimizer = make_optimizer(
        method,
        {
            name: optimizers.sgd(rates[name], momentum=0.9, weight_decay=1e-3)
            for name in method.moves
        },
    )
    step = make_train_step(
        method,
        encode=change_encode(make_encode(encoder)),
        make_views=make_views(num_views),
        optimizer=optimizer,
        target_momentum=lambda step: 0.9,
        key=KEY,
        **options,
    )
    return step, optimizer


def start(method, encoder, optimizer, dtype=jnp.float32):
    """A state whose target has moved apart from the online encoder."""

    @jax.jit
    def state():
        variables = encoder.init(KEY, jnp.zeros((2, 4, 4, 3), dtype), train=True)
        network = Network(variables["params"], variables["batch_stats"])
        state = create_state(jax.random.key(2), method, network, optimizer)
        if state.target is not None:
            apart = jax.tree.map(lambda leaf: leaf * 0.9 + 0.01, state.target.params)
            state = state._replace(target=state.target._replace(params=apart))
        return state

    return state()


def payoff_of(method, encoder, num_views):
    """The payoff as a function of every array that could influence it."""

    def payoff(players, stats, target, extra, images):
        context = Context(stats, target, extra, make_encode(encoder))
        views = [View(view) for view in make_views(num_views)(KEY, images)]
        return method.payoff(players, context, views)[0]

    return payoff
