"""Where two-layer ReLU networks come to rest."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("relu_fixed_points")
