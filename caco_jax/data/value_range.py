"""Value range of images of more than 8 bits: the values that become 0 and 255.

A 16-bit file often holds 12 bits, and floats have no fixed range. The range is given,
or estimated from some images of the set; images of 8 bits are not changed.
"""

import logging
from typing import Any, NamedTuple

import numpy as np

from caco_jax.data.decode import stored_values
from caco_jax.data.deep import Range, as_rgb, has_range
from caco_jax.data.records import UNREADABLE, Record, Records

logger = logging.getLogger("caco_jax")

AUTO = "auto"
_SAMPLE = 32  # number of images in the sample
_SAMPLE_PIXELS = 2**16  # values of each
_PERCENTILES = (0.1, 99.9)
_FEW_LEVELS = 64


class Found(NamedTuple):
    """The value range of a data set.

    Attributes:
        value_range: values that become 0 and 255; None: by the file's dtype.
        notes: lines for the user; () if all sampled images have 8 bits.
    """

    value_range: Range | None
    notes: tuple[str, ...] = ()


def find_range(name: str, records: Records, wanted: Range | str | None) -> Found:
    """Finds the range of a set's values, and warns if it leaves few grey levels.

    The sample is taken evenly from the set, not drawn: the result is deterministic.

    Args:
        name: name of the set.
        records: its images.
        wanted: a range; "auto": percentiles of the values; None: by the file's dtype.

    Raises:
        ValueError: most images have a dtype without a range, and none is given.
    """
    sampled, stored = _sample(records)
    if not stored:
        return Found(None if wanted == AUTO else wanted)  # type: ignore[arg-type]
    low = min(float(values.min()) for values in stored)
    high = max(float(values.max()) for values in stored)
    seen = f"values {low:,g} to {high:,g}"
    unknown = [values for values in stored if not has_range(values)]
    if wanted is None and 2 * len(unknown) > sampled:
        raise ValueError(
            f"data.value_range: expected auto or (low, high) for {name}, whose "
            f"{unknown[0].dtype} pictures have no known range; {seen} were seen"
        )
    value_range: Any = _percentiles(stored) if wanted == AUTO else wanted
    _warn_of_few_levels(name, stored, value_range, seen)
    if value_range is None:
        return Found(None)
    black, white = value_range
    line = f"{seen}, of which {black:,g} to {white:,g} become 0 to 255"
    return Found((black, white), (f"more than 8 bits: {line} (data.value_range)",))


def _sample(records: Records) -> tuple[int, list[np.ndarray]]:
    """The size of the sample, and some values of images of more than 8 bits."""
    found, stored = 0, []
    rows = np.linspace(0, len(records) - 1, min(len(records), _SAMPLE)).astype(int)
    for row in rows:
        try:
            record: Record = records[row]
            values = stored_values(record)
        except UNREADABLE:
            continue  # unreadable images are counted in training
        found += 1
        if values is not None:
            flat = values.ravel()
            stored.append(flat[:: -(-flat.size // _SAMPLE_PIXELS)])
    return found, stored


def _percentiles(stored: list[np.ndarray]) -> Range:
    """The percentiles that nearly all values are between."""
    low, high = np.percentile(np.concatenate(stored), _PERCENTILES)
    if all(values.dtype.kind in "iu" for values in stored):
        low, high = np.floor(low), np.ceil(high)
    return float(low), float(high if high > low else low + 1)


def _warn_of_few_levels(
    name: str, stored: list[np.ndarray], value_range: Range | None, seen: str
) -> None:
    left, had = [], []
    for values in stored:
        if value_range is not None or has_range(values):
            left.append(len(np.unique(as_rgb(values[None], value_range))))
            had.append(len(np.unique(values)))
    if left and np.median(left) < _FEW_LEVELS and np.median(had) > 2 * np.median(left):
        logger.warning(
            "data.value_range: expected a range that the values fill, got %s for %s, "
            "which has %s: about %d of 256 grey levels are left; set "
            "--config.data.value_range=auto",
            value_range or "that of 16 bits, 0 to 65,535,",
            name,
            seen,
            np.median(left),
        )
