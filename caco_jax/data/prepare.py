"""Downloads a TFDS image set and writes it as ArrayRecord.

Only this module needs TensorFlow: TFDS uses it to build a set, not to read one.
"""

import errno
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from caco_jax._extras import require_package
from caco_jax.data.decode import image_size
from caco_jax.data.records import UNREADABLE, TfdsRecords
from caco_jax.data.tfds_sets import (
    KNOWN_SPLITS,
    base_name,
    find_directory,
    find_keys,
    is_prepared,
    read_builder,
)
from caco_jax.schema import UserError

logger = logging.getLogger("caco_jax")
SUMMARY_FILE = "summary.json"
_LOOKED_AT = 256  # number of images of each split whose size is read


def prepare(
    dataset: str, data_dir: Path, *, manual_dir: Path | None = None
) -> dict[str, Any]:
    """Downloads and builds a data set, unless that is done, and describes it.

    Args:
        dataset: "tfds:NAME" or "tfds:NAME/CONFIG", optionally followed by ":1.2.3".
        data_dir: directory of prepared sets; the set gets a sub-directory.
        manual_dir: directory of files downloaded by hand, such as ImageNet's tar files.

    Returns:
        The summary, which is also saved as `SUMMARY_FILE` beside the data.

    Raises:
        UserError: no such set, no TensorFlow, no network, no disk space, no files.
    """
    kind, _, name = dataset.partition(":")
    if kind != "tfds" or not name:
        raise UserError(
            f"--dataset: expected tfds:NAME as in tfds:cifar10, got {dataset}"
        )
    with _explained(name, data_dir):
        if not is_prepared(name, data_dir):
            _require_tensorflow()
            _build(name, data_dir, manual_dir)
        summary = summarize(name, data_dir)
        file = Path(summary["directory"]) / SUMMARY_FILE
        file.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _require_tensorflow() -> None:
    # Before TensorFlow is imported, to silence its notes on optimisations.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    require_package("tensorflow", purpose="preparing a set")


def _build(name: str, data_dir: Path, manual_dir: Path | None) -> None:
    """Builds a set by TFDS."""
    import tensorflow_datasets as tfds

    data_dir.mkdir(parents=True, exist_ok=True)
    builder = tfds.builder(name, data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=None if manual_dir is None else str(manual_dir),
            try_download_gcs=False,  # available in TFRecord only
        )
    )
    usual = filter(None, KNOWN_SPLITS.get(base_name(name), ()))
    wanted = {part for split in usual for part in split.split("+")}
    for part in sorted(wanted - set(builder.info.splits)):
        logger.warning("%s has no split %s: its files were missing", name, part)


@contextmanager
def _explained(name: str, data_dir: Path) -> Iterator[None]:
    """Converts errors of a download or a build to one-line messages."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import download_manager, extractor, util

    not_downloaded = (
        requests.RequestException,
        util.DownloadError,
        download_manager.NonMatchingChecksumError,
        extractor.ExtractError,
    )
    try:
        yield
    except tfds.core.DatasetNotFoundError:
        raise UserError(
            f"--dataset: expected a data set of TFDS, got {name!r}; check the spelling"
        ) from None
    except not_downloaded as error:
        raise UserError(
            f"--dataset: expected to download tfds:{name}, got {_line(error)}; check "
            "the network and rerun the command"
        ) from None
    except OSError as error:
        if error.errno == errno.ENOSPC or "disk space" in str(error):
            what = f"expected more room on the disk of {data_dir}"
        else:
            what = f"cannot write to {data_dir}"
        raise UserError(f"--data_dir: {what}: {_line(error)}") from None
    except AssertionError as error:  # TFDS's error for missing files
        flag = "--manual_dir" if "manual" in str(error).lower() else "--dataset"
        raise UserError(f"{flag}: {_line(error)}") from None
    except ValueError as error:
        raise UserError(f"--dataset: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def summarize(name: str, data_dir: Path) -> dict[str, Any]:
    """The summary of a prepared set: splits, classes, image sizes, bytes.

    Args:
        name: name of the set.
        data_dir: directory of prepared sets.

    Returns:
        For JSON. Heights and widths are (smallest, median, largest) of at most
        `_LOOKED_AT` images of a split.
    """
    directory = find_directory(name, data_dir)
    builder = read_builder(directory, name, data_dir)
    image_key, label_key = find_keys(builder, name)
    splits = {}
    for split, info in builder.info.splits.items():
        records = TfdsRecords(
            directory, split, count=info.num_examples, image_key=image_key
        )
        splits[split] = {
            "images": info.num_examples,
            "bytes": info.num_bytes,
            **_sizes(records),
        }
    names = builder.info.features[label_key].names if label_key else []
    return {
        "dataset": f"tfds:{name}",
        "version": str(builder.info.version),
        "directory": str(directory),
        "classes": len(names),
        "bytes": sum(row["bytes"] for row in splits.values()),
        "splits": splits,
    }


def _sizes(records: TfdsRecords) -> dict[str, Any]:
    """Heights and widths of images that are taken evenly from a split."""
    count = min(len(records), _LOOKED_AT)
    rows = np.linspace(0, len(records) - 1, count).astype(int)
    sizes, unreadable = [], 0
    for row in rows:
        try:
            sizes.append(image_size(records[row]))
        except UNREADABLE:
            unreadable += 1
    heights, widths = np.array(sizes, int).reshape(-1, 2).T
    return {
        "height": _spread(heights),
        "width": _spread(widths),
        "looked_at": len(rows),
        "unreadable": unreadable,
    }


def _spread(values: np.ndarray) -> list[int]:
    quantiles = (0, 0.5, 1) if len(values) else ()
    return np.quantile(values, quantiles, method="nearest").astype(int).tolist()


def summary_text(summary: dict[str, Any]) -> str:
    """The summary as text."""
    lines = [
        f"{summary['dataset']} {summary['version']} in {summary['directory']}: "
        f"{summary['classes']} classes, {summary['bytes'] / 1e6:,.1f} MB"
    ]
    for split, row in summary["splits"].items():
        sizes = ", ".join(
            f"{side} {'/'.join(map(str, row[side]))}" for side in ("height", "width")
        )
        bad = f", {row['unreadable']} unreadable" if row["unreadable"] else ""
        lines.append(
            f"  {split}: {row['images']:,} images, {row['bytes'] / 1e6:,.1f} MB; "
            f"{sizes} pixels (least/median/most of {row['looked_at']}){bad}"
        )
    return "\n".join(lines)
