"""A linear encoder: embeddings are unit rows of images times parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax.methods.method import Context, Encode, Network, View

DIM = 3


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def encode(network, view):
    """Unit embeddings; the statistics list the mean of what passed through."""
    rows = view.images @ network.params
    rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows, Network(network.params, [*network.stats, view.images.mean()])


@functools.cache
def _compiled(payoff):
    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def value_and_gradients(players, target, extra, views):
        context = Context(
            stats=[], target=target, extra=extra, encode=Encode(encode, encode)
        )
        return payoff(players, context, views)

    return value_and_gradients


class Play:
    """One payoff of a method on given views, with all that it says."""

    def __init__(self, method, views, *, bank, online=None, target=None, extra=None):
        eye = np.eye(DIM, dtype=np.float32)
        online, target = (eye if w is None else w for w in (online, target))
        if extra is None:
            _, extra = method.init(jax.random.key(0))
        self.players = {"encoder": jnp.asarray(online), "bank": jnp.asarray(bank)}
        target = Network(jnp.asarray(target), [])
        views = [View(jnp.asarray(view)) for view in views]
        (self.loss, self.outcome), self.gradients = _compiled(method.payoff)(
            self.players, target, extra, views
        )
        self.metrics = self.outcome.metrics
        self.advanced = method.advance(self.players, extra, self.outcome)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cross_entropy(logits, labels):
    """Mean over rows of logsumexp minus the label's logit, in loops."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        losses.append(np.log(np.sum(np.exp(row - row[label]))))
    return np.mean(losses)
