"""Contrastive covariances of the released script, against its loops."""

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax.analysis.covariance import covariances


def test_covariances_equal_loops():
    rng = np.random.default_rng(3)
    n, tau = 6, 0.4
    x1, x2 = rng.standard_normal((2, n, 3))
    f1, f2 = rng.standard_normal((2, n, 4))
    with jax.enable_x64(True):
        found = covariances(
            *(jnp.asarray(a) for a in (x1, x2, f1, f2)), temperature=tau
        )
    length1, length2 = (
        np.linalg.norm(f, axis=1, keepdims=True) + 1e-8 for f in (f1, f2)
    )
    u1, u2 = f1 / length1, f2 / length2
    y1, y2 = x1 / length1, x2 / length2

    def weights(f):
        s = f @ f.T * (1 - np.eye(n))
        e = np.exp((s - s.max(axis=1, keepdims=True)) / tau)
        z = e.sum(axis=1) + 1e-8
        a = np.array([[e[i, j] / z[j] for j in range(n)] for i in range(n)])
        return a * (1 - np.eye(n)), 1 - a.diagonal(), s

    for name, f, a1, a2 in (("no_proj", u1, y1, y2), ("no_l2", f1, x1, x2)):
        pair, own, _ = weights(f)
        inter = sum(
            pair[i, j] * np.outer(a1[i] - a1[j], a1[i] - a1[j])
            for i in range(n)
            for j in range(n)
        )
        intra = sum(own[i] * np.outer(a1[i] - a2[i], a1[i] - a2[i]) for i in range(n))
        np.testing.assert_allclose(found[name].pair, pair)
        np.testing.assert_allclose(found[name].inter, inter)
        np.testing.assert_allclose(found[name].intra, intra)
    pair, own, s = weights(u1)
    regular = sum(
        (pair[i, j] + pair[j, i])
        * (
            s[i, j] * (np.outer(y1[i], y1[i]) + np.outer(y1[j], y1[j]))
            - np.outer(y1[i], y1[j])
            - np.outer(y1[j], y1[i])
        )
        for i in range(n)
        for j in range(i + 1, n)
    )
    within = sum(
        own[i]
        * (
            (u1[i] @ u2[i]) * (np.outer(y1[i], y1[i]) + np.outer(y2[i], y2[i]))
            - np.outer(y1[i], y2[i])
            - np.outer(y2[i], y1[i])
        )
        for i in range(n)
    )
    np.testing.assert_allclose(found["regular"].inter, regular)
    np.testing.assert_allclose(found["regular"].intra, within)
