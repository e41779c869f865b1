"""What a run is fed: its set of images, and the views that its method gets."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax.config import DataConfig
from caco_jax.data.recipe import PhotoView, Recipe
from caco_jax.data.records import ArrayRecords, Records
from caco_jax.data.sources import ImageSet, RecordSet, load
from caco_jax.data.views import VIEWS, make_views
from caco_jax.methods.method import Method
from caco_jax.schema import ConfigError, require

Images = ImageSet | RecordSet
_DIGEST_RECORDS = 32


def load_images(config: DataConfig) -> Images:
    """The image set of a configuration; a record set is streamed.

    Raises:
        ConfigError: there is no such source, or it cannot be read.
    """
    try:
        images = load(
            config.source,
            data_dir=config.data_dir,
            seed=config.split_seed,
            train_split=config.train_split,
            test_split=config.test_split,
            max_resident_bytes=config.max_resident_bytes,
        )
    except ValueError as error:
        raise ConfigError(f"config.{error}") from None
    if isinstance(images, RecordSet):
        return images
    resident = images.train_images.nbytes <= config.max_resident_bytes
    return images if resident else as_records(images)


def as_records(images: ImageSet) -> RecordSet:
    """A set in memory as one that is streamed."""
    name = images.name
    return RecordSet(
        name=name,
        train=ArrayRecords(f"{name}/train", images.train_images, images.train_labels),
        test=ArrayRecords(f"{name}/test", images.test_images, images.test_labels),
        class_names=images.class_names,
    )


def train_count(images: Images) -> int:
    """How many images there are to train on."""
    if isinstance(images, RecordSet):
        return len(images.train)
    return len(images.train_images)


def image_digest(images: Images) -> str:
    """Tells sets to train on apart, wherever they lie.

    All pixels of a set in memory count. A streamed one's order and crops are others:
    there the count and some records do.
    """
    digest = hashlib.sha256()
    if isinstance(images, ImageSet):
        digest.update(f"in memory {images.train_images.shape}".encode())
        digest.update(np.ascontiguousarray(images.train_images).data)
        return digest.hexdigest()
    count = len(images.train)
    digest.update(f"streamed {count}".encode())
    for index in np.linspace(0, count - 1, min(count, _DIGEST_RECORDS)).astype(int):
        digest.update(_content(images.train, index))
    return digest.hexdigest()


def _content(records: Records, index: int) -> bytes:
    try:
        encoded = records[index].encoded
    except OSError:
        return b""  # who trains on it counts the bad ones
    return encoded if isinstance(encoded, bytes) else encoded.tobytes()


def view_recipe(config: DataConfig) -> Recipe:
    """The views of a configuration, at the size that it asks for.

    Raises:
        ConfigError: a size for views that have that of the images.
    """
    recipe = VIEWS[config.views]()
    if config.view_size is None:
        return recipe
    photos = [view for view in recipe.views if isinstance(view, PhotoView)]
    require(
        len(photos) == len(recipe.views),
        f"config.data.view_size: want None, views {config.views!r} have the size of "
        f"the images; got {config.view_size}",
    )
    shrink = config.view_size / max(view.size_pixels for view in photos)
    views = tuple(
        dataclasses.replace(view, size_pixels=max(round(view.size_pixels * shrink), 1))
        for view in photos
    )
    return dataclasses.replace(recipe, views=views)


def step_images(recipe: Recipe, images: Images, batch_size: int) -> Any:
    """The shapes of what a step gets: images, or crops for each view."""
    if isinstance(images, ImageSet):
        shape = (batch_size, *images.train_images.shape[1:])
        return jax.ShapeDtypeStruct(shape, jnp.uint8)
    return tuple(
        jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.uint8)
        for size in photo_sizes(recipe)
    )


def photo_sizes(recipe: Recipe) -> list[int]:
    """Height and width of each view, of photographs' views."""
    return [view.size_pixels for view in recipe.views if isinstance(view, PhotoView)]


def view_shapes(recipe: Recipe, images: Images) -> list[tuple[int, ...]]:
    """The shape of each view of one image: (height, width, channels)."""
    pixels = step_images(recipe, images, 1)
    shapes = jax.eval_shape(make_views(recipe), jax.random.key(0), pixels)
    return [shape.shape[1:] for shape in shapes]


def check_streamed(name: str, recipe: Recipe, images: Images) -> None:
    """Checks that the host can crop what a recipe wants, where it has to.

    Args:
        name: of the recipe of views.
        recipe: the views.
        images: the set.

    Raises:
        ConfigError: they are no photographs' views.
    """
    photos = len(photo_sizes(recipe)) == len(recipe.views)
    require(
        photos or isinstance(images, ImageSet),
        f"config.data.views: want views of photographs, {images.name} is streamed; "
        f"got {name!r}",
    )


def check_views(name: str, method: Method, shapes: Sequence[tuple[int, ...]]) -> None:
    """Checks that a method can play with these views.

    Args:
        name: of the recipe of views.
        method: the method.
        shapes: (height, width, channels) of each view.

    Raises:
        ConfigError: a number of views that the method does not take, or a small crop
            before or larger than a large one.
    """
    want = "two views or more" if method.multicrop else "two views"
    require(
        len(shapes) == 2 or (method.multicrop and len(shapes) > 2),
        f"config.data.views: {method.name} wants {want}, {name!r} has {len(shapes)}",
    )
    heights = [shape[0] for shape in shapes]
    falling = sorted(heights, reverse=True)
    require(
        heights == falling,
        f"config.data.views: want no crop larger than those before it, {name!r} has "
        f"heights {heights}",
    )
