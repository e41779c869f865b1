"""The rectifier against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax.nets.activation import relu

X = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0])


def test_values_and_derivatives_are_jaxs():
    np.testing.assert_array_equal(relu(X), jax.nn.relu(X))
    for derivative in (jax.grad, jax.jacfwd):
        for power in (1, 2):
            ours, theirs = (
                derivative(lambda x, f=f, p=power: (f(x) ** p).sum())(X)
                for f in (relu, jax.nn.relu)
            )
            np.testing.assert_array_equal(ours, theirs)


def test_only_the_output_is_kept():
    _, back = jax.vjp(relu, X)
    kept = [leaf for leaf in jax.tree.leaves(back) if leaf.dtype == X.dtype]
    assert all((leaf >= 0).all() for leaf in kept)
