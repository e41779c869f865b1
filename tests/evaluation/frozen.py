"""A tiny frozen network and a labelled set that it can tell apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax.data.labelled import ArrayPart
from caco_jax.data.view_kinds import PlainView, Views
from caco_jax.data.views import make_views
from caco_jax.evaluation.features import make_features, make_view_features
from caco_jax.evaluation.sweep import Frozen
from caco_jax.nets.functions import as_encoder
from tests.runs.tiny import TinyEncoder

_RANDOM = np.random.default_rng(0)
LABELS = (np.arange(48) % 3).astype(np.int32)
_PATTERNS = _RANDOM.integers(0, 200, (3, 4, 4, 1))
_NOISE = _RANDOM.integers(0, 50, (48, 4, 4, 1))
IMAGES = (_PATTERNS[LABELS] + _NOISE).astype(np.uint8)
ENCODER = TinyEncoder()
VIEWS = make_views(Views((PlainView(),)))


def part():
    return ArrayPart(IMAGES, LABELS)


@functools.cache
def network():
    return as_encoder(ENCODER).init(jax.random.key(0), jnp.zeros((2, 4, 4, 1)))


@functools.cache
def frozen_network():
    return Frozen(
        network(),
        make_view_features(ENCODER, VIEWS),
        make_features(ENCODER, lambda images: VIEWS(jax.random.key(0), images)[0]),
    )
