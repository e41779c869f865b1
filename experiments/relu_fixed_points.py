"""Fixed points of two-layer ReLU networks."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("relu_fixed_points")
