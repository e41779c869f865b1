"""Downloads a TFDS image data set and writes it as ArrayRecord, for training.

    caco prepare --dataset=tfds:cifar10 --data_dir=data

Download ImageNet's two tar files by hand and give their directory as --manual_dir. A
summary is printed and saved as summary.json beside the prepared files.
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
