"""Weights to and from PyTorch."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("convert")
