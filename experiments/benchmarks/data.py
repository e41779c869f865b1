"""Times the augmentation on the device, beside a loop over images by Pillow.

    python -m experiments.benchmarks.data [--out=FILE.json] [--smoke]

Two views of 256 images of 32×32, as training makes them: ours in one compiled call on
all cores, Pillow's on one core, doing the same operations in the same run. Also the
processor's seconds, which say what a core does however busy the others are.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from caco_jax.data.recipe import PhotoView, Recipe
from caco_jax.data.sources import make_fake_set
from caco_jax.data.views import VIEWS, make_views
from experiments.benchmarks import pillow_views, timing

RECIPES: dict[str, dict[str, Any]] = {  # blurring or not
    "simclr": {"size_pixels": 32, "crop_scale": (0.08, 1.0)},
    "cifar": {"size_pixels": 32},
}


def main() -> None:
    """Measures, prints and, with --out, saves."""
    options = _options()
    batch, runs = (16, 1) if options.smoke else (256, 15)
    images = make_fake_set(f"32x32x3x{batch}").train_images
    print(
        f"two views of {batch} images of 32x32, {timing.cores()} cores, "
        f"load average {timing.machine()['load_average_1_minute']:.1f}"
    )
    figures = {
        "settings": {**vars(options), "batch": batch, "runs": runs},
        "machine": timing.machine(("jax", "jaxlib", "numpy", "pillow")),
        "augmentation": {
            name: compare(VIEWS[name](**fields), images, runs=runs, name=name)
            for name, fields in RECIPES.items()
        },
    }
    if options.out:
        timing.write_json(options.out, figures)


def compare(
    recipe: Recipe, images: np.ndarray, *, runs: int, name: str
) -> dict[str, Any]:
    """Times a recipe's views of the images, ours and Pillow's, and prints them.

    Args:
        recipe: of `PhotoView`s.
        images: uint8 [N, H, W, 3].
        runs: timed runs of each.
        name: of the recipe, for the print.
    """
    candidates = {
        f"{name}: ours": device_views(recipe, images),
        f"{name}: Pillow": pillow_loop(recipe, images),
    }
    timings = timing.alternate(candidates, runs=runs)
    print(timing.table(timings))
    ours, pillow = timings.values()
    count = len(images) * len(recipe.views)
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


def device_views(recipe: Recipe, images: np.ndarray) -> Callable[[], object]:
    """A call that makes all views, compiled, from images that are on the device."""
    views = jax.jit(make_views(recipe))
    on_device = jnp.asarray(images)
    keys = iter(jax.random.split(jax.random.key(0), 1000))
    return lambda: views(next(keys), on_device)


def pillow_loop(recipe: Recipe, images: np.ndarray) -> Callable[[], object]:
    """A call that makes all views with Pillow, from images that are Pillow's."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(image) for image in images]
    mean, std = (np.array(values, np.float32) for values in (recipe.mean, recipe.std))

    def make(view: PhotoView) -> np.ndarray:
        return np.stack(
            [pillow_views.random_view(rng, photo, view, mean, std) for photo in photos]
        )

    photo_views = [view for view in recipe.views if isinstance(view, PhotoView)]
    return lambda: [make(view) for view in photo_views]


def processor_seconds(call: Callable[[], object], *, runs: int) -> float:
    """The median over runs of the processor's seconds, all threads together."""
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
    parser.add_argument("--out", help="write the figures to this JSON file")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
