"""Downloads a TFDS image data set and writes it as ArrayRecord, for training."""

from caco_jax.programs import start

if __name__ == "__main__":
    start("prepare_dataset")
