"""Lists the recipes, or where each setting of one comes from."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("recipes")
