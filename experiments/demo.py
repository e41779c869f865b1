"""Pretrains CaCo on handwritten digits, evaluates it and prints one table."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("demo")
