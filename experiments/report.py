"""Report of a run as one HTML page."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("report")
