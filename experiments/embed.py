"""Writes features of images to a file."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("embed")
