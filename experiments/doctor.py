"""Checks an installation and lists what to fix."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("doctor")
