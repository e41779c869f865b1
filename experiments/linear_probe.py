"""Linear probe of a run."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("linear_probe")
