"""Times decoding and augmentation, beside loops with Pillow.

    python -m experiments.benchmarks.data [--out=FILE.json] [--smoke]

On the device: two views of 256 images of 32×32, as in training: ours in one compiled
call on all cores, Pillow's on one core, with the same operations. Each makes several
batches in succession, as an epoch does: a single one would time how long sleeping cores
take to wake up. CPU seconds are measured too; they do not depend on other work on the
machine.

On the host: photographs of 500×375 as JPEG, decoded, randomly cropped and resized to
224×224 on one core, beside Pillow's decoding, cropping and resizing as torchvision
does it. With one crop of each decoded image, and with two, as training needs them.
"""

import argparse
import contextlib
import functools
import io
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from sklearn import datasets

from caco_jax.data.decode import CropSpec, random_resized_crops
from caco_jax.data.records import Record
from caco_jax.data.sources import make_fake_set
from caco_jax.data.view_kinds import PhotoView, Views
from caco_jax.data.views import VIEWS, make_views
from experiments.benchmarks import pillow_views, timing

RECIPES: dict[str, dict[str, Any]] = {  # with and without blur
    "simclr": {"size_pixels": 32, "crop_scale": (0.08, 1.0)},
    "cifar": {"size_pixels": 32},
}
CROP = CropSpec(224, (0.08, 1.0), (3 / 4, 4 / 3))  # torchvision's defaults
CROPS = {"one crop": 1, "two crops": 2}  # of each image
VERSIONS = ("jax", "jaxlib", "numpy", "pillow", "opencv-python-headless")
BATCHES = 4  # batches in succession
PHOTO_SIZE = (500, 375)
JPEG_QUALITY = 90


def main() -> None:
    """Measures, prints and, with --out, saves."""
    options = _options()
    batch, runs = (16, 1) if options.smoke else (256, 15)
    images = make_fake_set(f"32x32x3x{batch}").train_examples
    print(
        f"two views of {batch} images of 32x32, {timing.cores()} cores, "
        f"load average {timing.machine()['load_average_1_minute']:.1f}"
    )
    figures = {
        "settings": {**vars(options), "batch": batch, "runs": runs},
        "machine": timing.machine(VERSIONS),
        "augmentation": {
            name: compare(VIEWS[name](**fields), images, runs=runs, name=name)
            for name, fields in RECIPES.items()
        },
        "decoding": decoding(count=2 if options.smoke else 32, runs=runs),
    }
    if options.out:
        timing.write_json(options.out, figures)


def compare(
    recipe: Views, images: np.ndarray, *, runs: int, name: str
) -> dict[str, Any]:
    """Times a recipe's views of the images, ours and Pillow's, and prints them.

    Args:
        recipe: of `PhotoView`s.
        images: uint8 [N, H, W, 3].
        runs: timed runs of each.
        name: of the recipe, for the print.
    """
    candidates = {
        f"{name}: ours": in_a_row(device_views(recipe, images)),
        f"{name}: Pillow": in_a_row(pillow_loop(recipe, images)),
    }
    timings = timing.alternate(candidates, runs=runs)
    print(timing.table(timings))
    ours, pillow = timings.values()
    count = BATCHES * len(images) * len(recipe.views)
    seconds = processor_seconds(candidates[f"{name}: ours"], runs=runs)
    figures = {
        "seconds": {"ours": ours, "pillow": pillow},
        "views_per_second": {
            "ours": count / ours.median,
            "pillow_one_core": count / pillow.median,
        },
        "times_pillow": pillow.median / ours.median,
        "processor_seconds_of_ours": seconds,
        "times_pillow_for_each_core": pillow.median / seconds,
    }
    print(
        f"{count / ours.median:,.0f} views/s, {figures['times_pillow']:.1f} times one "
        f"core of Pillow ({count / pillow.median:,.0f}); a core busy with ours: "
        f"{figures['times_pillow_for_each_core']:.1f} times"
    )
    return figures


def in_a_row(call: Callable[[], object]) -> Callable[[], None]:
    """A call that makes `BATCHES` batches, one after the other."""

    def calls() -> None:
        for _ in range(BATCHES):
            jax.block_until_ready(call())

    return calls


def device_views(recipe: Views, images: np.ndarray) -> Callable[[], object]:
    """A compiled call that makes all views from images on the device."""
    views = jax.jit(make_views(recipe))
    on_device = jnp.asarray(images)
    keys = itertools.cycle(list(jax.random.split(jax.random.key(0), 64)))
    return lambda: views(next(keys), on_device)


def pillow_loop(recipe: Views, images: np.ndarray) -> Callable[[], object]:
    """A call that makes all views with Pillow."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(image) for image in images]
    mean, std = (np.array(values, np.float32) for values in (recipe.mean, recipe.std))

    def make(view: PhotoView) -> np.ndarray:
        return np.stack(
            [pillow_views.random_view(rng, photo, view, mean, std) for photo in photos]
        )

    photo_views = [view for view in recipe.views if isinstance(view, PhotoView)]
    return lambda: [make(view) for view in photo_views]


def decoding(*, count: int, runs: int) -> dict[str, Any]:
    """Times decoding and cropping on one core, ours and Pillow's, and prints them.

    Args:
        count: photographs.
        runs: timed runs of each.
    """
    records = photographs(count)
    size = sum(len(record.encoded) for record in records) / count
    print(f"{count} JPEGs of {PHOTO_SIZE[0]}x{PHOTO_SIZE[1]}, {size / 1e3:.0f} kB each")
    candidates = {}
    for name, crops in CROPS.items():
        candidates[f"{name}: ours"] = functools.partial(our_crops, records, crops)
        candidates[f"{name}: Pillow"] = functools.partial(pillow_crops, records, crops)
    with one_thread():
        timings = timing.alternate(candidates, runs=runs)
    print(timing.table(timings))
    figures: dict[str, Any] = {"seconds": timings, "mean_bytes": size}
    for name in CROPS:
        ours, pillow = timings[f"{name}: ours"], timings[f"{name}: Pillow"]
        figures[name] = {
            "images_per_second": count / ours.median,
            "images_per_second_of_pillow": count / pillow.median,
            "times_pillow": pillow.median / ours.median,
        }
        print(
            f"{name} of an image: {count / ours.median:,.0f} images/s a core, "
            f"{pillow.median / ours.median:.2f} times Pillow's "
            f"{count / pillow.median:,.0f}"
        )
    return figures


def photographs(count: int) -> list[Record]:
    """Pieces of scikit-learn's two photographs, as JPEG."""
    rng = np.random.default_rng(0)
    whole = [Image.fromarray(image) for image in datasets.load_sample_images().images]
    width, height = PHOTO_SIZE
    records = []
    for index in range(count):
        photo = whole[index % 2]
        left = int(rng.integers(0, photo.width - width + 1))
        top = int(rng.integers(0, photo.height - height + 1))
        file = io.BytesIO()
        piece = photo.crop((left, top, left + width, top + height))
        piece.save(file, "JPEG", quality=JPEG_QUALITY)
        records.append(Record(file.getvalue(), -1, f"photograph {index}"))
    return records


def our_crops(records: list[Record], crops: int) -> list[np.ndarray]:
    """Crops of each record, as in worker processes."""
    made = []
    for index, record in enumerate(records):
        rng = np.random.default_rng(index)
        made += random_resized_crops(rng, record, [CROP] * crops)
    return made


def pillow_crops(records: list[Record], crops: int) -> list[np.ndarray]:
    """The same by Pillow, as torchvision does it."""
    made = []
    for index, record in enumerate(records):
        rng = np.random.default_rng(index)
        photo = Image.open(io.BytesIO(record.encoded)).convert("RGB")
        for _ in range(crops):
            box = pillow_views.draw_crop(
                rng, photo.height, photo.width, CROP.scale_range, CROP.aspect_range
            )
            crop = pillow_views.crop_and_resize(photo, box, CROP.size_pixels)
            made.append(np.asarray(crop))
    return made


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limits OpenCV to one core, as in a worker process."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def processor_seconds(call: Callable[[], object], *, runs: int) -> float:
    """The median over runs of CPU seconds, all threads together."""
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        jax.block_until_ready(call())
        seconds.append(time.process_time() - start)
    return float(np.median(seconds))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="JSON file to write the results to.")
    parser.add_argument(
        "--smoke", action="store_true", help="Use tiny sizes and one run."
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
