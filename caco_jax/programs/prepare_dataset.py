"""Downloads a TFDS image set and writes it as ArrayRecord, for training to read.

    caco prepare --dataset=tfds:cifar10 --data_dir=data

ImageNet's two tar files have to be fetched by hand, and --manual_dir says where they
are. What was prepared is summed up on the screen and in summary.json beside it.
"""

from pathlib import Path

from caco_jax.data.prepare import prepare, summary_text
from caco_jax.programs.flags import parser_of


def main() -> None:
    """Parses flags and runs."""
    flags = parser_of("prepare_dataset").parse_args()
    manual_dir = None if flags.manual_dir is None else Path(flags.manual_dir)
    summary = prepare(flags.dataset, Path(flags.data_dir), manual_dir=manual_dir)
    print(summary_text(summary))
