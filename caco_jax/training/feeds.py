"""How images reach the compiled steps: from the devices' memory, or from a stream.

A feed is data, as a method is: what every dispatch gets, what each gets in its turn,
and how a step's batch is made of both. The loop and the step know no kinds of feed.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int, PRNGKeyArray, UInt8

from caco_jax.data import pipeline
from caco_jax.data.decode import CropSpec
from caco_jax.data.recipe import PhotoView, Recipe
from caco_jax.data.records import Records
from caco_jax.data.sources import ImageSet
from caco_jax.training.assemble import Experiment
from caco_jax.training.inputs import train_count
from caco_jax.training.mesh import local_rows, place, replicated, rows


class Layout(NamedTuple):
    """What a compiled dispatch must know of a feed.

    Attributes:
        fixed: the sharding of the arrays that every dispatch gets.
        chosen: the sharding of a dispatch's own, which have an axis of steps first.
        batch: (fixed, one step of the dispatch's own) -> the step's images; traced.
    """

    fixed: NamedSharding
    chosen: NamedSharding
    batch: Callable[[Any, Any], Any]


def resident_layout(mesh: Mesh) -> Layout:
    """All images on every device, and the rows of each step."""

    def batch(images: UInt8[Array, "m h w c"], chosen: Int[Array, " n"]) -> Array:
        return jax.lax.with_sharding_constraint(images[chosen], rows(mesh))

    return Layout(replicated(mesh), rows(mesh, axis=1), batch)


def streamed_layout(mesh: Mesh) -> Layout:
    """Nothing on the devices but each step's crops."""
    return Layout(replicated(mesh), rows(mesh, axis=1), lambda _, crops: crops)


class Feed(NamedTuple):
    """How one phase of a run goes through the images.

    Attributes:
        layout: what its dispatches are compiled for.
        fixed: what every dispatch gets.
        epochs: (epoch, each dispatch's own in it), of the epochs that are left.
    """

    layout: Layout
    fixed: Any
    epochs: Iterator[tuple[int, Iterator[Any]]]


class OpenFeed(Protocol):
    """Opens the feed of a phase; it ends with the block."""

    def __call__(
        self, key: PRNGKeyArray, *, steps: int, epochs: int, first_step: int = 0
    ) -> AbstractContextManager[Feed]:
        """The feed from a step on, the same as if it had begun at the first.

        Args:
            key: of the order of every epoch, and of what the host draws.
            steps: in an epoch.
            epochs: of the phase.
            first_step: of the phase, to begin with.
        """


def epoch_order(
    key: PRNGKeyArray, epoch: int, *, count: int, steps: int, batch_size: int
) -> Int[np.ndarray, "s n"]:
    """The rows of each step of an epoch: a permutation from (key, epoch) alone."""
    order = jax.random.permutation(jax.random.fold_in(key, epoch), count)
    return np.asarray(order[: steps * batch_size]).reshape(steps, batch_size)


def dispatch_size(steps: int, at_most: int | None) -> int:
    """The largest allowed divisor of a number of steps: one compiled shape.

    Args:
        steps: to be run.
        at_most: what is allowed; None is 16, but 1 on a CPU, where loops are unrolled
            and a step outlasts any return to Python.
    """
    if at_most is None:
        at_most = 1 if jax.default_backend() == "cpu" else 16
    fitting = range(1, min(steps, at_most) + 1)
    return max(size for size in fitting if steps % size == 0)


def spans(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """[first, last) in pieces that end at multiples of a size."""
    while first < last:
        end = min(first - first % size + size, last)
        yield first, end
        first = end


def _epochs(
    take: Callable[[int, int, int], Any],
    *,
    steps: int,
    epochs: int,
    first_step: int,
    size: int,
) -> Iterator[tuple[int, Iterator[Any]]]:
    """What is taken of each epoch that is left: (epoch, step, step after the last)."""
    for epoch in range(first_step // steps, epochs):
        first = max(first_step - epoch * steps, 0)
        of_epoch = functools.partial(take, epoch)
        yield epoch, (of_epoch(*span) for span in spans(first, steps, size))


def resident_feeds(
    images: UInt8[np.ndarray, "m h w c"],
    mesh: Mesh,
    *,
    batch_size: int,
    steps_per_dispatch: int | None = None,
) -> OpenFeed:
    """Feeds of a small set, which goes to every device once, whole.

    Args:
        images: the set.
        mesh: the devices.
        batch_size: images a step.
        steps_per_dispatch: at most, see `dispatch_size`.
    """
    layout = resident_layout(mesh)
    on_device = place(images, layout.fixed)
    shape = {"count": len(images), "batch_size": batch_size}

    @contextlib.contextmanager
    def open_feed(
        key: PRNGKeyArray, *, steps: int, epochs: int, first_step: int = 0
    ) -> Iterator[Feed]:
        order = functools.lru_cache(1)(
            functools.partial(epoch_order, key, steps=steps, **shape)
        )
        inputs = _epochs(
            lambda epoch, *span: place(order(epoch)[slice(*span)], layout.chosen),
            steps=steps,
            epochs=epochs,
            first_step=first_step,
            size=dispatch_size(steps, steps_per_dispatch),
        )
        yield Feed(layout, on_device, inputs)

    return open_feed


def crop_specs(recipe: Recipe) -> list[CropSpec]:
    """What the host crops for each view of a recipe, photographs' views all."""
    return [
        CropSpec(view.size_pixels, view.crop_scale, view.crop_aspect)
        for view in recipe.views
        if isinstance(view, PhotoView)
    ]


def streamed_feeds(
    records: Records,
    recipe: Recipe,
    mesh: Mesh,
    *,
    bad: pipeline.BadImages,
    batch_size: int,
    steps_per_dispatch: int | None = None,
    workers: int | None = None,
) -> OpenFeed:
    """Feeds of a large set: the host crops, the devices do the rest of the views.

    Each process reads only the rows of its own devices.

    Args:
        records: the set.
        recipe: of `PhotoView`s.
        mesh: the devices.
        bad: counts the records that are no images.
        batch_size: images a step, of all processes.
        steps_per_dispatch: at most; None: 1, or as many batches would be held.
        workers: processes of each host; 0: threads; None: one a core.
    """

    @contextlib.contextmanager
    def open_feed(
        key: PRNGKeyArray, *, steps: int, epochs: int, first_step: int = 0
    ) -> Iterator[Feed]:
        layout = streamed_layout(mesh)
        source = pipeline.CropSource(
            records,
            crop_specs(recipe),
            seed=tuple(map(int, jax.random.key_data(key).ravel())),
            batch_size=batch_size,
            steps=steps,
            rows=local_rows(mesh, batch_size),
        )
        first = first_step * source.parts_per_step
        count = pipeline.worker_count(workers)
        with pipeline.stream(source, workers=count, first=first) as parts:

            def take(epoch: int, first: int, last: int) -> tuple[Array, ...]:
                del epoch  # parts come in order
                steps = last - first
                crops = pipeline.join_steps(
                    parts, source.parts_per_step * steps, steps=steps, bad=bad
                )
                # The copy to the devices goes on while the step before is computed.
                return tuple(_put(view, layout.chosen, batch_size) for view in crops)

            inputs = _epochs(
                take,
                steps=steps,
                epochs=epochs,
                first_step=first_step,
                size=dispatch_size(steps, steps_per_dispatch or 1),
            )
            yield Feed(layout, (), inputs)

    return open_feed


def _put(
    crops: UInt8[np.ndarray, "s n h w c"], sharding: NamedSharding, batch_size: int
) -> UInt8[Array, "s batch_size h w c"]:
    """This process's rows of some batches, as part of the global array."""
    shape = (len(crops), batch_size, *crops.shape[2:])
    return jax.make_array_from_process_local_data(sharding, crops, shape)


def count_bad(experiment: Experiment) -> pipeline.BadImages:
    """A count of a run's unreadable training images, at none."""
    return pipeline.BadImages(
        experiment.images.name,
        count=train_count(experiment.images),
        share=experiment.config.data.bad_image_share,
    )


def experiment_feeds(
    experiment: Experiment, bad: pipeline.BadImages | None = None
) -> OpenFeed:
    """The feeds of a run's training images.

    Args:
        experiment: the run.
        bad: counts the unreadable images of a streamed set; None: anew.
    """
    images, config = experiment.images, experiment.config
    if isinstance(images, ImageSet):
        return resident_feeds(
            images.train_images,
            experiment.mesh,
            batch_size=config.training.batch_size,
            steps_per_dispatch=config.training.steps_per_dispatch,
        )
    return streamed_feeds(
        images.train,
        experiment.recipe,
        experiment.mesh,
        bad=count_bad(experiment) if bad is None else bad,
        batch_size=config.training.batch_size,
        steps_per_dispatch=config.training.steps_per_dispatch,
        workers=config.data.workers,
    )
