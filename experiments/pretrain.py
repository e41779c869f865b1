"""Pretrains an encoder."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("pretrain")
