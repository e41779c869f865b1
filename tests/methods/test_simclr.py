"""SimCLR as a method: the loss is NT-Xent of what the online encoder gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax import methods
from caco_jax.methods.method import Context, Encode, Network, View


def count_passes(network, view):
    embeddings = network.params[view.images]
    return embeddings, Network(network.params, network.stats + 1)


def play(method, embeddings):
    """The method's payoff on a table of embeddings [2, N, D]."""
    return with_gradient(method, embeddings)[0]


def with_gradient(method, embeddings):
    """The same, and the gradient of the embeddings."""
    return _with_gradient(method.payoff, embeddings)


@functools.partial(jax.jit, static_argnames="method_payoff")
def _with_gradient(method_payoff, embeddings):
    @functools.partial(jax.value_and_grad, has_aux=True)
    def payoff(embeddings):
        context = Context(jnp.zeros(()), None, {}, Encode(count_passes, None))
        views = [View(jnp.asarray(v)) for v in (0, 1)]
        return method_payoff({"encoder": embeddings}, context, views)

    return payoff(embeddings)


def test_equal_embeddings_cost_the_logarithm_of_the_candidates():
    method = methods.simclr(temperature=0.3)(3)
    same = np.broadcast_to(np.float32([0.6, 0.8, 0.0]), (2, 5, 3))
    loss, outcome = play(method, same)
    np.testing.assert_allclose(loss, np.log(9), rtol=1e-6)
    assert (method.candidates(5), outcome.metrics["cross_entropy"]) == (9, loss)
    np.testing.assert_allclose(outcome.metrics["embedding_std"], 0, atol=1e-6)
    assert outcome.target is None
    assert outcome.stats == 2


def test_opposite_pairs_have_a_loss_by_hand():
    # Two images, each with equal views, opposite to each other: s+ = 1, s- = -1 twice.
    method = methods.simclr(temperature=0.5)(2)
    views = np.float32([[1.0, 0.0], [-1.0, 0.0]])
    loss, _ = play(method, np.stack([views, views]))
    np.testing.assert_allclose(loss, np.log1p(2 * np.exp(-4)), rtol=1e-5)


def test_the_temperature_is_in_the_description():
    method = methods.simclr(temperature=0.25)(2)
    assert "0.25" in method.description
