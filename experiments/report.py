"""A run as one page for a browser."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("report")
