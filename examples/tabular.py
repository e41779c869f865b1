"""CaCo on tabular data, with randomly masked features as views.

    python examples/tabular.py

The table is scikit-learn's breast cancer data set: 569 tumours, 30 measurements of
each. The diagnoses are used for kNN evaluation only.
"""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_breast_cancer

import caco_jax


def masked(key, row):
    """A view: a third of the measurements replaced by their mean, which is 0."""
    return jnp.where(jax.random.bernoulli(key, 0.33, row.shape), 0.0, row)


class Mlp(nn.Module):
    """Two layers with BatchNorm: [N, F] -> [N, 64]."""

    @nn.compact
    def __call__(self, rows, train):
        """Features of a batch of rows."""
        x = rows
        for width in (128, 64):
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(width)(x))
            x = nn.relu(x)
        return x


def main(smoke=False):
    """Trains, or loads a finished run, and prints the accuracy."""
    table = load_breast_cancer()
    rows = (table.data - table.data.mean(axis=0)) / table.data.std(axis=0)
    run = caco_jax.Pretraining(
        method=caco_jax.methods.caco(bank_size=256),
        encoder=Mlp(),
        projector=(64, 32),
        views=(masked, masked),
        data=(rows.astype("float32"), table.target_names[table.target]),
        optimizers={
            "encoder": optax.adam(1e-3)
        },  # the bank has the method's default optimiser
        batch_size=64,
        epochs=2 if smoke else 60,
    )
    run.fit("runs/tabular")  # run again to resume, or to load a finished run
    trained = run.load("runs/tabular")
    print("The diagnosis of a tumour that was not seen, by its nearest neighbours:")
    for kind in ("backbone", "random", "raw"):
        print(f"  {kind}: {trained.knn(kind=kind):.1%}")
    print(f"features of the first five rows: {trained.embed(rows[:5]).shape}")


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv)
