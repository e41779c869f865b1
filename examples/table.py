"""SimCLR on the rows of a table, with features masked at random as the view.

    python table.py

The table is scikit-learn's breast cancer set: 569 rows of 30 measurements. Its labels
are used for the kNN monitor only.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from sklearn.datasets import load_breast_cancer

import caco_jax
from caco_jax.optim import OptimizerConfig


def mask_features(key, row):
    """A view: a fifth of the measurements replaced by their mean, which is 0."""
    return jnp.where(jax.random.bernoulli(key, 0.2, row.shape), 0.0, row)


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


if __name__ == "__main__":
    table = load_breast_cancer()
    rows = (table.data - table.data.mean(axis=0)) / table.data.std(axis=0)
    run = caco_jax.Pretraining(
        method=caco_jax.methods.simclr(temperature=0.2),
        encoder=Mlp(),
        projector=(64, 32),
        views=(mask_features, mask_features),
        data=(rows.astype("float32"), table.target_names[table.target]),
        optimizers={"encoder": OptimizerConfig(name="adam", learning_rate=1e-3)},
        batch_size=128,
        epochs=30,
    )
    run.fit("runs/table")
    trained = run.load("runs/table")
    print(f"features of the first rows: {trained.embed(rows[:5]).shape}")
    print(f"kNN on held-out rows: {trained.files.read_metrics()[-1]['knn']:.1%}")
