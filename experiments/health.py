"""Diagnosis of representation collapse."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("health")
