"""Compiles a recipe's train step for a TPU slice that is not there, and reads it."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("compile_for_pod")
