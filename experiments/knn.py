"""kNN accuracy of a run's frozen features."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("knn")
