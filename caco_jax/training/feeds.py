"""Feeds: images for the compiled steps, from the devices' memory or from a stream.

A feed is data, like a method: the arrays that every dispatch gets, the arrays of each
dispatch, and how a step's batch is made of both. The loop and the step know no kinds of
feed.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int, PRNGKeyArray, Shaped, UInt8

from caco_jax.data import pipeline
from caco_jax.data.dataset import ArrayDataset, Dataset, RecordDataset
from caco_jax.data.decode import CropSpec
from caco_jax.data.records import Records
from caco_jax.data.view_kinds import PhotoView, Views
from caco_jax.data.workers import fitting_workers, stream, worker_count
from caco_jax.training.sharding import local_rows, place, replicated, rows


class Layout(NamedTuple):
    """What a compiled dispatch has to know about a feed.

    Attributes:
        fixed: sharding of the arrays that every dispatch gets.
        chosen: sharding of the arrays of one dispatch; their first axis is the steps.
        batch: (fixed, chosen of one step) -> the images of the step; traced.
    """

    fixed: NamedSharding
    chosen: NamedSharding
    batch: Callable[[Any, Any], Any]


def resident_layout(mesh: Mesh) -> Layout:
    """Layout of a resident set: all images on every device, row numbers for a step."""

    def batch(examples: Shaped[Array, "m *example"], chosen: Int[Array, " n"]) -> Array:
        return jax.lax.with_sharding_constraint(examples[chosen], rows(mesh))

    return Layout(replicated(mesh), rows(mesh, axis=1), batch)


def streamed_layout(mesh: Mesh) -> Layout:
    """Layout of a streamed set: only the crops of each step are on the devices."""
    return Layout(replicated(mesh), rows(mesh, axis=1), lambda _, crops: crops)


class Feed(NamedTuple):
    """The order and the transfer of the images in one phase of a run.

    Attributes:
        layout: layout that its dispatches are compiled for.
        fixed: the arrays that every dispatch gets.
        epochs: (epoch, arrays of each dispatch), for the remaining epochs.
    """

    layout: Layout
    fixed: Any
    epochs: Iterator[tuple[int, Iterator[Any]]]


class OpenFeed(Protocol):
    """Opens the feed of a phase as a context manager."""

    def __call__(
        self, key: PRNGKeyArray, *, steps: int, epochs: int, first_step: int = 0
    ) -> AbstractContextManager[Feed]:
        """The feed from a given step on; it yields what a feed from step 0 would.

        Args:
            key: random key of the order of every epoch and of the host's crops.
            steps: steps in an epoch.
            epochs: epochs of the phase.
            first_step: step of the phase to start at.
        """


def epoch_order(
    key: PRNGKeyArray, epoch: int, *, count: int, steps: int, batch_size: int
) -> Int[np.ndarray, "s n"]:
    """The rows of each step of an epoch: a permutation from (key, epoch) alone."""
    order = jax.random.permutation(jax.random.fold_in(key, epoch), count)
    return np.asarray(order[: steps * batch_size]).reshape(steps, batch_size)


def dispatch_size(steps: int, at_most: int | None) -> int:
    """Steps in one dispatch: the largest allowed divisor, to compile one shape only.

    Args:
        steps: number of steps.
        at_most: largest allowed number; None is 16, or 1 on a CPU, where loops are
            unrolled and a step takes longer than a return to Python.
    """
    if at_most is None:
        at_most = 1 if jax.default_backend() == "cpu" else 16
    fitting = range(1, min(steps, at_most) + 1)
    return max(size for size in fitting if steps % size == 0)


def spans(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """Splits [first, last) at the multiples of a size."""
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
    """The remaining part of each epoch: (epoch, first step, step after the last)."""
    for epoch in range(first_step // steps, epochs):
        first = max(first_step - epoch * steps, 0)
        of_epoch = functools.partial(take, epoch)
        yield epoch, (of_epoch(*span) for span in spans(first, steps, size))


def resident_feeds(
    examples: Shaped[np.ndarray, "m *example"],
    mesh: Mesh,
    *,
    batch_size: int,
    steps_per_dispatch: int | None = None,
) -> OpenFeed:
    """Feeds of a resident set, which is copied to every device once.

    Args:
        examples: the examples of the set.
        mesh: the devices.
        batch_size: images in one step.
        steps_per_dispatch: at most, see `dispatch_size`.
    """
    layout = resident_layout(mesh)
    on_device = place(examples, layout.fixed)
    shape = {"count": len(examples), "batch_size": batch_size}

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


def crop_specs(views: Views) -> list[CropSpec]:
    """The crops that the host makes for each view, which has to be a `PhotoView`."""
    return [
        CropSpec(view.size_pixels, view.crop_scale, view.crop_aspect)
        for view in views.views
        if isinstance(view, PhotoView)
    ]


def streamed_feeds(
    records: Records,
    views: Views,
    mesh: Mesh,
    *,
    bad: pipeline.BadImages,
    batch_size: int,
    steps_per_dispatch: int | None = None,
    workers: int | None = None,
) -> OpenFeed:
    """Feeds of a streamed set: the host crops, the devices make the rest of the views.

    Each process reads only the rows of its own devices.

    Args:
        records: the set.
        views: `PhotoView`s.
        mesh: the devices.
        bad: counts the unreadable images.
        batch_size: images in one step, over all processes.
        steps_per_dispatch: at most; None is 1, since that many batches are in memory.
        workers: worker processes of each host; 0: threads; None: one for each core.
    """

    @contextlib.contextmanager
    def open_feed(
        key: PRNGKeyArray, *, steps: int, epochs: int, first_step: int = 0
    ) -> Iterator[Feed]:
        layout = streamed_layout(mesh)
        source = pipeline.CropSource(
            records,
            crop_specs(views),
            seed=tuple(map(int, jax.random.key_data(key).ravel())),
            batch_size=batch_size,
            steps=steps,
            rows=local_rows(mesh, batch_size),
        )
        first = first_step * source.parts_per_step
        size = dispatch_size(steps, steps_per_dispatch or 1)
        count = fitting_workers(
            worker_count(workers),
            source.part_bytes,
            held=source.parts_per_step * size,
        )
        with stream(source, workers=count, first=first) as parts:

            def take(epoch: int, first: int, last: int) -> tuple[Array, ...]:
                del epoch  # parts arrive in order
                steps = last - first
                crops = pipeline.join_steps(
                    parts, source.parts_per_step * steps, steps=steps, bad=bad
                )
                # The copy to the devices runs while the previous step computes.
                return tuple(_put(view, layout.chosen, batch_size) for view in crops)

            inputs = _epochs(
                take,
                steps=steps,
                epochs=epochs,
                first_step=first_step,
                size=size,
            )
            yield Feed(layout, (), inputs)

    return open_feed


def _put(
    crops: UInt8[np.ndarray, "s n h w c"], sharding: NamedSharding, batch_size: int
) -> UInt8[Array, "s batch_size h w c"]:
    """Puts this process's rows of some batches into the global array."""
    shape = (len(crops), batch_size, *crops.shape[2:])
    return jax.make_array_from_process_local_data(sharding, crops, shape)


def layout_of(dataset: Dataset, mesh: Mesh) -> Layout:
    """The layout of the feeds of a data set."""
    return (resident_layout if dataset.in_memory else streamed_layout)(mesh)


def count_bad(dataset: Dataset) -> pipeline.BadImages:
    """A new counter of the unreadable training images of a data set."""
    share = getattr(dataset, "bad_share", 0.0)
    return pipeline.BadImages(dataset.name, count=dataset.train_count, share=share)


def open_feeds(
    dataset: Dataset,
    views: Views,
    mesh: Mesh,
    *,
    batch_size: int,
    steps_per_dispatch: int | None = None,
    bad: pipeline.BadImages | None = None,
) -> OpenFeed:
    """The feeds of the training examples of a data set.

    Args:
        dataset: the set.
        views: views of the run, which the host crops for a streamed set.
        mesh: the devices.
        batch_size: examples in one step.
        steps_per_dispatch: at most, see `dispatch_size`.
        bad: counter of the unreadable images of a streamed set; None makes a new one.
    """
    how: dict[str, Any] = {
        "batch_size": batch_size,
        "steps_per_dispatch": steps_per_dispatch,
    }
    if isinstance(dataset, RecordDataset):
        bad = count_bad(dataset) if bad is None else bad
        return streamed_feeds(
            dataset.train, views, mesh, bad=bad, workers=dataset.workers, **how
        )
    assert isinstance(dataset, ArrayDataset)
    return resident_feeds(dataset.train_examples, mesh, **how)


def step_examples(dataset: Dataset, views: Views, batch_size: int) -> Any:
    """Shapes of the inputs of a step: examples, or crops for each view."""
    if isinstance(dataset, ArrayDataset):
        examples = dataset.train_examples
        shape = (batch_size, *examples.shape[1:])
        return jax.ShapeDtypeStruct(shape, examples.dtype)
    return tuple(
        jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.uint8)
        for size in views.photo_sizes
    )


def dispatch_shapes(dataset: Dataset, views: Views, batch_size: int) -> tuple[Any, Any]:
    """Shapes of the inputs of a dispatch of one step: (fixed, chosen)."""
    fixed: Any = ()
    batch: Any = step_examples(dataset, views, batch_size)
    if isinstance(dataset, ArrayDataset):
        examples = dataset.train_examples
        fixed = jax.ShapeDtypeStruct(examples.shape, examples.dtype)
        batch = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return fixed, jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), batch
    )
