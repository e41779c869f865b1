"""What a configuration may name by import path, as somebody else would write it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from caco_jax.data.view_kinds import DigitView, Views
from caco_jax.losses import nt_xent
from caco_jax.methods.two_view import two_view
from caco_jax.schema import POSITIVE, setting, validate

NOTHING = 3


class Backbone(nn.Module):
    """A network that knows nothing of ours."""

    features: int = 6

    @nn.compact
    def __call__(self, examples, *, train):
        del train
        return nn.relu(nn.Dense(self.features)(examples.reshape(len(examples), -1)))


BACKBONE = Backbone(5)


def backbone_of(norm, dtype, depth=1):
    """A backbone that is built of some of our parts and of an option."""
    del dtype
    return nn.Sequential([nn.Dense(depth + 1), norm()])


def no_backbone():
    return "a string"


def broken():
    raise RuntimeError("first line\nsecond line")


def shifted(key, example):
    """A view."""
    return example + 0.1 * jax.random.normal(key, example.shape)


def flattened(key, example):
    """Another, of another shape."""
    del key
    return example.reshape(-1)


VIEWS = (DigitView(noise_std=0.0), DigitView(noise_std=0.2))


def make_views(*, strength=0.1):
    return Views((DigitView(noise_std=strength),) * 2, mean=(0.0,), std=(1.0,))


def tables(data_dir=None):
    """Examples that are no images, with labels."""
    del data_dir
    rows = np.random.default_rng(0).normal(size=(40, 7)).astype(np.float32)
    return rows, np.arange(40) % 2


ROWS = np.zeros((24, 16, 16, 1), np.uint8)


@dataclasses.dataclass(frozen=True)
class OwnConfig:
    """Settings of a method."""

    temperature: float = setting(0.3, allowed=POSITIVE, doc="softmax temperature")

    def __post_init__(self):
        validate(self)


def make(config, *, embedding_dim):
    """A method with a player of its own."""

    def loss(z1, z2):
        return nt_xent(z1, z2, temperature=config.temperature)

    method = two_view("own", "a method of somebody else's", loss)

    def init(key):
        del key
        return {"rows": jnp.zeros((16, embedding_dim))}, {}

    return method._replace(init=init, moves={**method.moves, "rows": "ascend"})


METHOD = OwnConfig, make
NO_PAIR = make
NO_CLASS = OwnConfig(), make
NO_METHOD = OwnConfig, lambda config, embedding_dim: "a string"
BROKEN_METHOD = OwnConfig, lambda config: make(config, embedding_dim=1)
