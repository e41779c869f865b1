"""Pairwise importance in a trained encoder."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("alpha_gradients")
