"""Dynamics of a run's bank or queue."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("bank_dynamics")
