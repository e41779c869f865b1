"""A directory of small pictures of many sizes, as a person's would be."""

import cv2
import numpy as np

from caco_jax.data.records import FolderRecords


def write_pictures(folder, count, *, broken=()):
    """Smooth random pictures 0.jpg, 1.jpg ...; the broken ones are cut short."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{index}.jpg" for index in range(count)]
    for index, name in enumerate(names):
        height, width = 20 + 3 * (index % 5), 20 + 5 * (index % 3)
        coarse = rng.integers(0, 256, (4, 5, 3), np.uint8)
        picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        encoded = cv2.imencode(".jpg", picture)[1].tobytes()
        if index in broken:
            encoded = encoded[: len(encoded) // 2]
        (folder / name).write_bytes(encoded)
    return names


def picture_records(folder, count, *, broken=()):
    """The same as records."""
    return FolderRecords(folder, write_pictures(folder, count, broken=broken))


def write_squares(folder, count, *, size=8):
    """Random pictures of one size, 0.png, 1.png ..., which a set keeps in memory."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture = rng.integers(0, 256, (size, size, 3), np.uint8)
        encoded = cv2.imencode(".png", picture)[1].tobytes()
        (folder / f"{index}.png").write_bytes(encoded)
