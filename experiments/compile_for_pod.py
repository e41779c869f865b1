"""Compiles a recipe's training step for a TPU slice, without a TPU."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("compile_for_pod")
