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

    def batch(examples: Shaped[Array, "m *example"], chosen: Int[Array, " n"]) -> Array:
        return jax.lax.with_sharding_constraint(examples[chosen], rows(mesh))

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
    examples: Shaped[np.ndarray, "m *example"],
    mesh: Mesh,
    *,
    batch_size: int,
    steps_per_dispatch: int | None = None,
) -> OpenFeed:
    """Feeds of a small set, which goes to every device once, whole.

    Args:
        examples: of the set.
        mesh: the devices.
        batch_size: images a step.
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
    """What the host crops for each of some views, photographs' all."""
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
    """Feeds of a large set: the host crops, the devices do the rest of the views.

    Each process reads only the rows of its own devices.

    Args:
        records: the set.
        views: `PhotoView`s.
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
                size=size,
            )
            yield Feed(layout, (), inputs)

    return open_feed


def _put(
    crops: UInt8[np.ndarray, "s n h w c"], sharding: NamedSharding, batch_size: int
) -> UInt8[Array, "s batch_size h w c"]:
    """This process's rows of some batches, as part of the global array."""
    shape = (len(crops), batch_size, *crops.shape[2:])
    return jax.make_array_from_process_local_data(sharding, crops, shape)


def layout_of(dataset: Dataset, mesh: Mesh) -> Layout:
    """The layout of a set's feeds."""
    return (resident_layout if dataset.in_memory else streamed_layout)(mesh)


def count_bad(dataset: Dataset) -> pipeline.BadImages:
    """A count of a set's unreadable training images, at none."""
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
    """The feeds of a set's training examples.

    Args:
        dataset: the set.
        views: of the run; what the host crops for a streamed set.
        mesh: the devices.
        batch_size: examples a step.
        steps_per_dispatch: at most, see `dispatch_size`.
        bad: counts the unreadable images of a streamed set; None: anew.
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
    """The shapes of what a step gets: examples, or crops for each view."""
    if isinstance(dataset, ArrayDataset):
        examples = dataset.train_examples
        shape = (batch_size, *examples.shape[1:])
        return jax.ShapeDtypeStruct(shape, examples.dtype)
    return tuple(
        jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.uint8)
        for size in views.photo_sizes
    )


def dispatch_shapes(dataset: Dataset, views: Views, batch_size: int) -> tuple[Any, Any]:
    """The shapes of what a dispatch of one step gets: (fixed, chosen)."""
    fixed: Any = ()
    batch: Any = step_examples(dataset, views, batch_size)
    if isinstance(dataset, ArrayDataset):
        examples = dataset.train_examples
        fixed = jax.ShapeDtypeStruct(examples.shape, examples.dtype)
        batch = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return fixed, jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), batch
    )
