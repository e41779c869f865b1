"""Accuracy from few labels."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("few_shot")
