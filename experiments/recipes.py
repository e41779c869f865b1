"""Lists the recipes, or the source of each setting of one."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("recipes")
