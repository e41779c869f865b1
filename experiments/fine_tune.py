"""Fine-tuning of a run's network on labels."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("fine_tune")
