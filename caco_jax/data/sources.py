"""Where images come from: a source's name in, arrays on the host out.

Nothing here touches an accelerator: a set is NumPy arrays of bytes, and the training
loop decides where they live.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8


@dataclass(frozen=True)
class ImageSet:
    """Images of one size with their labels, in memory as bytes.

    Attributes:
        name: the source that gave them, as written in the config.
        train_images: uint8 [M, H, W, C], 0 to 255.
        train_labels: int32 [M], or None where the source has none: pretraining
            needs none.
        test_images: uint8 [T, H, W, C].
        test_labels: int32 [T], or None.
        class_names: one name for each class; empty without labels.
    """

    name: str
    train_images: UInt8[np.ndarray, "m h w c"] = field(repr=False)
    train_labels: Int32[np.ndarray, " m"] | None = field(repr=False)
    test_images: UInt8[np.ndarray, "t h w c"] = field(repr=False)
    test_labels: Int32[np.ndarray, " t"] | None = field(repr=False)
    class_names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """How many classes there are; 0 without labels."""
        return len(self.class_names)

    @property
    def has_labels(self) -> bool:
        """Whether both parts have labels, as evaluation needs."""
        return self.train_labels is not None and self.test_labels is not None

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            images = getattr(self, f"{split}_images")
            labels = getattr(self, f"{split}_labels")
            if images.dtype != np.uint8 or images.ndim != 4:
                raise ValueError(
                    f"{self.name}: want {split} images as uint8 [M, H, W, C], got "
                    f"{images.dtype} {images.shape}"
                )
            if labels is not None and labels.shape != images.shape[:1]:
                raise ValueError(
                    f"{self.name}: want one label for each of {len(images)} {split} "
                    f"images, got labels {labels.shape}"
                )


def load_digits_set(*, seed: int = 0, size_pixels: int = 16) -> ImageSet:
    """Scikit-learn's 1,797 handwritten digits, which need no download.

    A stratified quarter is held out. Grey levels 0 to 16 become 0 to 255, and the
    8×8 images are enlarged bilinearly: at 8×8 a shift by one pixel is too much of an
    augmentation, and a stride-2 network has nothing left to look at.

    Args:
        seed: which quarter is held out.
        size_pixels: height and width of the images returned.

    References:
        Alpaydin & Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", the
        test part, as scikit-learn packs it.
    """
    from PIL import Image
    from sklearn import datasets, model_selection

    digits = datasets.load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
    size = (size_pixels, size_pixels)
    enlarged = np.stack(
        [
            np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR))
            for one in grey
        ]
    )[..., None]  # [1797, size, size, 1]
    labels = digits.target.astype(np.int32)
    train, test = model_selection.train_test_split(
        np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=seed
    )
    return ImageSet(
        name="digits",
        train_images=enlarged[train],
        train_labels=labels[train],
        test_images=enlarged[test],
        test_labels=labels[test],
        class_names=tuple("0123456789"),
    )


FAKE_COUNT = 512
FAKE_CLASSES = 10


def make_fake_set(shape: str, *, seed: int = 0) -> ImageSet:
    """Random bytes with random labels, for benchmarks and smoke runs.

    Args:
        shape: "HxWxC" or "HxWxCxCOUNT"; the count is 512 where it is not given. A
            quarter of the count, at least one image, is made for the test split.
        seed: of the bytes and labels.

    Raises:
        ValueError: the shape is not such a string, or has a 0 in it.
    """
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2,3}", shape):
        raise ValueError(
            "data.source: after fake: want a shape HxWxC or HxWxCxCOUNT of numbers "
            f">= 1, such as 32x32x3x1024, got {shape!r}"
        )
    height, width, channels, count = [*map(int, shape.split("x")), FAKE_COUNT][:4]
    random = np.random.default_rng(seed)

    def split(rows: int) -> tuple[np.ndarray, np.ndarray]:
        images = random.integers(
            0, 256, size=(rows, height, width, channels), dtype=np.uint8
        )
        return images, random.integers(0, FAKE_CLASSES, size=rows, dtype=np.int32)

    train_images, train_labels = split(count)
    test_images, test_labels = split(max(1, count // 4))
    return ImageSet(
        name=f"fake:{shape}",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=tuple(f"class {c}" for c in range(FAKE_CLASSES)),
    )


def _digits(rest: str, *, seed: int, data_dir: Path | None) -> ImageSet:
    del data_dir  # the images come with scikit-learn
    if rest:
        raise ValueError(
            f"data.source: digits takes nothing after its name, got {rest!r}"
        )
    return load_digits_set(seed=seed)


def _fake(rest: str, *, seed: int, data_dir: Path | None) -> ImageSet:
    del data_dir
    return make_fake_set(rest, seed=seed)


SOURCES: dict[str, Callable[..., ImageSet]] = {"digits": _digits, "fake": _fake}


def load(source: str, *, data_dir: str | Path | None = None, seed: int = 0) -> ImageSet:
    """Loads the image set that a config names.

    Args:
        source: "digits" (embedded) or "fake:HxWxC[xCOUNT]" (random bytes).
        data_dir: where prepared sets lie; embedded and fake ones need none.
        seed: of whatever the source draws: the held-out part, the fake bytes.

    Raises:
        ValueError: no such source, or the part after its colon is not understood.
    """
    kind, _, rest = source.partition(":")
    if kind not in SOURCES:
        raise ValueError(
            f"data.source: want one of {', '.join(sorted(SOURCES))}, got {source!r}"
        )
    directory = None if data_dir is None else Path(data_dir)
    return SOURCES[kind](rest, seed=seed, data_dir=directory)
