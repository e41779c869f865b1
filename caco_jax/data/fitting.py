"""Converts images of another data set to the size and channels of a network."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped, UInt8

from caco_jax.data.dataset import ArrayDataset, Dataset, RecordDataset
from caco_jax.data.decode import center_crop, decode_image
from caco_jax.data.labelled import Part, RecordPart, open_part
from caco_jax.data.records import ArrayRecords, Record, Records
from caco_jax.data.resize import opencv, resize

Shape = tuple[int, ...]
Example = tuple[Shape, np.dtype]
# An image is decoded at this many times the target size or larger, if possible.
_DENSITY = 3


def fit_to(dataset: Dataset, own: Dataset, *, size_pixels: int) -> Dataset:
    """Converts a data set to examples like those that a network was trained on.

    Grey images get three equal channels, or colours become grey. Images of another size
    are scaled to cover the target size and cropped at the centre.

    Args:
        dataset: the set.
        own: the data set that the network was trained on.
        size_pixels: size of the crops that the host makes for the network; 0 if it
            makes none.

    Returns:
        The set itself if it fits, else a converted one, streamed if `own` is.

    Raises:
        ValueError: its examples cannot be converted; "expected ..., got ...".
    """
    expected, got = _example(own, size_pixels), _example(dataset, size_pixels)
    streams = not dataset.in_memory and size_pixels > 0 and expected[0][-1:] == (3,)
    if got == expected or streams:
        return dataset
    _require_images(expected, got, dataset.name)
    if isinstance(dataset, ArrayDataset) and not own.in_memory:
        return dataset.as_records()  # the host crops it as it crops the run's own set
    return _in_memory(dataset, expected[0])


def embedded_splits(
    dataset: Dataset, own: Dataset, *, size_pixels: int
) -> dict[str, tuple[Records, Callable[[Record], Shaped[np.ndarray, "*example"]]]]:
    """All records of a set with their conversion to inputs; labels are not needed.

    Args:
        dataset: the set.
        own: as of `fit_to`.
        size_pixels: as of `fit_to`.

    Returns:
        By split: its records, and the function from a record to an example.

    Raises:
        ValueError: as `fit_to`.
    """
    expected = _example(own, size_pixels)
    got = _example(dataset, 0) if isinstance(dataset, ArrayDataset) else None
    fit = (
        _stored if got == expected else _image_fit(own, size_pixels, got, dataset.name)
    )
    return {split: (records, fit) for split, records in _splits(dataset).items()}


def fit_images(
    images: Shaped[np.ndarray, "m *example"], own: Dataset, *, size_pixels: int
) -> Shaped[np.ndarray, "m *example"]:
    """Converts uint8 images in memory to those of a run; other examples are unchanged.

    Args:
        images: [M, ...].
        own: as of `fit_to`.
        size_pixels: as of `fit_to`.
    """
    expected, got = _example(own, size_pixels), (images.shape[1:], images.dtype)
    if (
        got == expected
        or not len(images)
        or not (_is_image(*expected) and _is_image(*got))
    ):
        return images
    fit = _image_fit(own, size_pixels, got, "examples")
    return np.stack([fit(Record(image, -1, "an array")) for image in images])


def _splits(dataset: Dataset) -> dict[str, Records]:
    if isinstance(dataset, ArrayDataset):
        return {
            split: ArrayRecords(f"{dataset.name}/{split}", examples, labels)
            for split, examples, labels in (
                ("train", dataset.train_examples, dataset.train_labels),
                ("test", dataset.test_examples, dataset.test_labels),
            )
            if len(examples)
        }
    assert isinstance(dataset, RecordDataset)
    names = ("train", "labelled", "test")
    found = {name: getattr(dataset, name) for name in names}
    return {name: records for name, records in found.items() if records is not None}


def _image_fit(
    own: Dataset, size_pixels: int, got: Example | None, name: str
) -> Callable[[Record], UInt8[np.ndarray, "h w c"]]:
    """The function from an image to an example.

    Args:
        own: as of `fit_to`.
        size_pixels: as of `fit_to`.
        got: shape and dtype of the images; None for files.
        name: name of the data set.
    """
    expected = _example(own, size_pixels)
    _require_images(expected, got or expected, name)
    if own.in_memory:
        return functools.partial(_decoded, shape=expected[0])
    return functools.partial(center_crop, size_pixels=size_pixels)


def _stored(record: Record) -> Shaped[np.ndarray, "*example"]:
    return np.asarray(record.encoded)


def _decoded(record: Record, shape: Shape) -> UInt8[np.ndarray, "h w c"]:
    enough = _DENSITY * max(shape[:2])
    return convert(decode_image(record, smallest_side_pixels=enough), shape)


def _require_images(expected: Example, got: Example, name: str) -> None:
    if not (_is_image(*expected) and _is_image(*got)):
        raise ValueError(
            f"expected examples like those of the run, {expected[1]} {expected[0]}, "
            f"{name} has {got[1]} {got[0]}; only images of bytes can be converted"
        )


def _example(dataset: Dataset, size_pixels: int) -> Example:
    """Shape and dtype of an example in evaluation."""
    if isinstance(dataset, ArrayDataset):
        examples = dataset.train_examples
        return examples.shape[1:], examples.dtype
    return (size_pixels, size_pixels, 3), np.dtype(np.uint8)


def _is_image(shape: Shape, dtype: np.dtype) -> bool:
    return dtype == np.uint8 and len(shape) == 3 and shape[2] in (1, 3)


def _in_memory(dataset: Dataset, shape: Shape) -> ArrayDataset:
    size_pixels, has_labels = max(shape[:2]), dataset.has_labels
    train = open_part(
        dataset, "evaluation_train" if has_labels else "train", size_pixels=size_pixels
    )
    test = open_part(dataset, "test", size_pixels=size_pixels)
    (images, labels), (unseen, unseen_labels) = (
        _converted(part, shape) for part in (train, test)
    )
    return ArrayDataset(
        dataset.name,
        images,
        labels if has_labels else None,
        unseen,
        unseen_labels if has_labels else None,
        class_names=dataset.class_names,
    )


def _converted(part: Part | None, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """All readable images of a part, and their labels."""
    images, labels = [np.empty((0, *shape), np.uint8)], [np.empty(0, np.int32)]
    if isinstance(part, RecordPart):
        part = dataclasses.replace(part, fit=functools.partial(_decoded, shape=shape))
    if part is None:
        return images[0], labels[0]
    for pixels, known in part.centers(np.arange(len(part))):
        images.append(np.stack([convert(image, shape) for image in pixels]))
        labels.append(np.asarray(known, np.int32))
    return np.concatenate(images), np.concatenate(labels)


def convert(
    image: UInt8[np.ndarray, "h w c"], shape: Shape
) -> UInt8[np.ndarray, "height width channels"]:
    """Converts an image to another size and number of channels.

    Args:
        image: uint8, of 1 or 3 channels.
        shape: height, width and channels, 1 or 3, of the result.
    """
    height, width, channels = shape
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    scale = max(height / image.shape[0], width / image.shape[1])
    tall, wide = (round(side * scale) for side in image.shape[:2])
    if (tall, wide) != image.shape[:2]:
        image = resize(np.ascontiguousarray(image), tall, wide)
    top, left = (tall - height) // 2, (wide - width) // 2
    image = np.ascontiguousarray(image[top : top + height, left : left + width])
    if channels == 3:
        return image
    cv2 = opencv()
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
