"""Deep linear networks under fixed α are PCA."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("deep_linear_pca")
