"""Another set's images as a network takes them: their size and their channels."""

import numpy as np
from jaxtyping import UInt8

from caco_jax.data.dataset import ArrayDataset, Dataset
from caco_jax.data.labelled import Part, labelled_parts
from caco_jax.data.resize import opencv, resize

Shape = tuple[int, ...]


def fit_to(dataset: Dataset, own: Dataset, *, size_pixels: int) -> Dataset:
    """A labelled set with examples like those that a network was trained on.

    Grey images get three equal channels, or colours become grey. Another size is scaled
    until it covers the wanted one, and the middle is cut out.

    Args:
        dataset: the set.
        own: what was trained on.
        size_pixels: of the crops that the host makes for the network; 0 where it makes
            none.

    Returns:
        The set itself where it fits. Else streamed, where `own` is, or in memory.

    Raises:
        ValueError: its examples cannot become such, as in "expected ..., got ...".
    """
    want, got = _example(own, size_pixels), _example(dataset, size_pixels)
    streams = not dataset.in_memory and size_pixels > 0 and want[0][-1:] == (3,)
    if got == want or streams or not dataset.has_labels:
        return dataset
    if not (_is_image(*want) and _is_image(*got)):
        raise ValueError(
            f"expected examples like those of the run, {want[1]} {want[0]}, "
            f"{dataset.name} has {got[1]} {got[0]}; only images of bytes can be "
            "converted"
        )
    if isinstance(dataset, ArrayDataset) and not own.in_memory:
        return dataset.as_records()  # the crops are made as of its own
    return _in_memory(dataset, want[0])


def _example(dataset: Dataset, size_pixels: int) -> tuple[Shape, np.dtype]:
    """Shape and type of an example as evaluation gets it."""
    if isinstance(dataset, ArrayDataset):
        examples = dataset.train_examples
        return examples.shape[1:], examples.dtype
    return (size_pixels, size_pixels, 3), np.dtype(np.uint8)


def _is_image(shape: Shape, dtype: np.dtype) -> bool:
    return dtype == np.uint8 and len(shape) == 3 and shape[2] in (1, 3)


def _in_memory(dataset: Dataset, shape: Shape) -> ArrayDataset:
    train, test = labelled_parts(dataset, size_pixels=max(shape[:2]))
    return ArrayDataset(
        dataset.name,
        *_converted(train, shape),
        *_converted(test, shape),
        class_names=dataset.class_names,
    )


def _converted(part: Part, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """All readable images of a part, and their labels."""
    images, labels = [np.empty((0, *shape), np.uint8)], [np.empty(0, np.int32)]
    for pixels, known in part.centers(np.arange(len(part))):
        images.append(np.stack([convert(image, shape) for image in pixels]))
        labels.append(np.asarray(known, np.int32))
    return np.concatenate(images), np.concatenate(labels)


def convert(
    image: UInt8[np.ndarray, "h w c"], shape: Shape
) -> UInt8[np.ndarray, "height width channels"]:
    """An image of another size, of other channels, or both.

    Args:
        image: bytes, of 1 or 3 channels.
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
