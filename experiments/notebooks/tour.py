"""# Analysis of contrastive learning, in a few lines each.

Pairwise importance, the identity of the gradients, deep linear networks as PCA, ReLU
networks that represent several directions, and the weight of queries in a bank's
payoff. The commands `caco analyse ...` do the same on trained runs; this uses pixels
and linear encoders, and takes seconds.
"""

# %%
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from caco_jax import losses
from caco_jax.analysis import (
    alpha_game,
    bank_history,
    deep_linear,
    importance,
    plots_alpha,
    plots_bank,
    plots_networks,
    two_layer_relu,
)
from caco_jax.analysis import pairs as inputs
from caco_jax.data.sources import load_digits_set
from caco_jax.data.views import digits, make_views

jax.config.update("jax_enable_x64", True)
FIGURES = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## Two views of eighty digits, and a linear encoder of their pixels
#
# Sorted by class, so that a heat map shows the classes as blocks.

# %%
images = load_digits_set()
assert images.train_labels is not None
rows = np.random.default_rng(0).permutation(len(images.train_examples))[:80]
rows = rows[np.argsort(images.train_labels[rows], kind="stable")]
labels = images.train_labels[rows]
views = jax.jit(make_views(digits(), dtype=jnp.float64))(
    jax.random.key(0), jnp.asarray(images.train_examples[rows])
)
x1, x2 = (view.reshape(len(rows), -1) for view in views)
params = {"linear": jax.random.normal(jax.random.key(1), (x1.shape[1], 32)) / 16}


def embed(params: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Unit embeddings of both views."""
    z1, z2 = (losses.l2_normalize(x @ params["linear"]) for x in (x1, x2))
    return z1, z2


z1, z2 = embed(params)

# %% [markdown]
# ## The identity
#
# The gradient of every member of the (φ, ψ) family is minus that of its energy, with
# the member's own α held constant: here in double precision.

# %%
families = {name: make() for name, make in losses.FAMILIES.items()}
errors = alpha_game.identity_errors(embed, params, families)
for member, by_layer in errors.items():
    print(f"{member:20} {max(by_layer.values()):.1e}")
assert max(error for layers in errors.values() for error in layers.values()) < 1e-9

# %% [markdown]
# ## Pair weights α by distance
#
# A low temperature concentrates the weight on few near pairs, most of them of the same
# class: false negatives.

# %%
squared = importance.squared_distances(z1)
maps = {}
for temperature in (0.05, 0.2):
    alpha = importance.pair_weights(
        z1, losses.row_normalised(importance.SHAPES["exponential"](temperature))
    )
    maps[f"temperature {temperature:g}"] = np.asarray(alpha)
    print(temperature, importance.summarise_importance(alpha, squared, labels))
plots_alpha.plot_importance_maps(
    maps, labels, FIGURES / "maps.png", class_names=images.class_names
)
Image.open(FIGURES / "maps.png")

# %% [markdown]
# ## Alternating play
#
# If α is updated after every move of the encoder, the encoder descends the loss itself.

# %%
curves = {
    "joint descent" if turn is None else f"α answers every {turn}": (
        alpha_game.descend_in_turns(
            embed, params, families["info_nce"], rate=0.05, steps=30, turn=turn
        )
    )
    for turn in (None, 1, 10)
}
np.testing.assert_allclose(curves["α answers every 1"], curves["joint descent"])
plots_alpha.plot_turns(curves, FIGURES / "turns.png")
Image.open(FIGURES / "turns.png")

# %% [markdown]
# ## Deep linear networks are PCA
#
# From 128 random starts projected gradient ascent reaches the same energy, with a
# product of rank 1 on the top eigenvector of the contrastive covariance.

# %%
pairs = inputs.digit_pairs(count=96, dim=4)
assert not deep_linear.failed_conditions(pairs.covariance)
keys = jax.random.split(jax.random.key(2), 128)
starts = jax.vmap(lambda key: deep_linear.random_weights(key, (16, 8, 8)))(keys)
ascent = deep_linear.ascend(pairs.covariance, starts)
verdict = deep_linear.judge(ascent, pairs.covariance)
print(f"largest energy gap {verdict.gaps.max():.1e}")
print(f"largest σ2/σ1      {verdict.rank_ratios.max():.1e}")
print(f"smallest |cos|     {verdict.cosines.min():.6f}")
assert not verdict.stuck

# %% [markdown]
# ## ReLU networks represent several directions
#
# On inputs of orthogonal directions linear networks represent one direction; ReLU
# networks converge to fixed points of higher rank.

# %%
mixture = inputs.weighted_pairs(
    *inputs.mixture_views(jax.random.key(3), count=24, directions=6)
)
points = {
    activation: two_layer_relu.ascend(
        keys[:64], *mixture, activation=activation, hidden=6, outputs=4, steps=2**12
    )
    for activation in two_layer_relu.ACTIVATIONS
}
for activation, found in points.items():
    print(
        activation, "ranks of verified fixed points:", np.unique(found.verified_ranks)
    )
assert set(points["linear"].verified_ranks) == {1}
assert points["relu"].verified_ranks.min() > 1
example = points["relu"].highest()
assert example is not None
plots_networks.plot_fixed_points(
    {name: found.verified_ranks for name, found in points.items()},
    np.asarray(example.first),
    FIGURES / "fixed_points.png",
)
Image.open(FIGURES / "fixed_points.png")

# %% [markdown]
# ## Weight of queries in a bank's payoff
#
# A bank that follows the queries: here the other half of the training images. AdCo's
# payoff pulls an entry to a query by p(w|q), the alternative by p(q|w). At this high
# temperature the first gives all queries nearly the same weight, the second more to
# dense ones.

# %%
grey = images.train_examples.reshape(len(images.train_examples), -1) / 255.0
pixels = jnp.asarray(grey - grey.mean(axis=0))
unit = losses.l2_normalize(pixels @ params["linear"])
noise = 0.02 * jax.random.normal(jax.random.key(4), unit[:640].shape)
focus = bank_history.focus_on_density(
    unit[:640],
    losses.l2_normalize(unit[:640] + noise),
    unit[640:],
    temperature=0.5,
    batch_size=128,
)
for density, ratios in focus.dense_over_sparse.items():
    print(f"weight of the densest tenth over the sparsest, by density {density}:")
    print({payoff: round(ratio, 2) for payoff, ratio in ratios.items()})
    assert abs(ratios["p(w|q)"] - 1) < abs(ratios["p(q|w)"] - 1) / 3
plots_bank.plot_density(
    focus.densities, focus.weights, focus.correlations, FIGURES / "density.png"
)
Image.open(FIGURES / "density.png")
