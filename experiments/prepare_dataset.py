"""Downloads a TFDS image set and writes it as ArrayRecord, for training to read."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("prepare_dataset")
