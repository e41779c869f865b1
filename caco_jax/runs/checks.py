"""Checks that the parts of a run fit each other and the devices, by shapes alone."""

import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import jax
import optax

from caco_jax.data.dataset import Dataset
from caco_jax.data.labelled import open_part
from caco_jax.data.views import make_views
from caco_jax.methods.method import Method
from caco_jax.optim.settings import OptimizerConfig, check_optimizers
from caco_jax.runs.settings import TrainingConfig
from caco_jax.schema import ConfigError, Conflicts, did_you_mean, one_line, require
from caco_jax.training.feeds import step_examples

if TYPE_CHECKING:
    from caco_jax.runs.pretraining import Pretraining


def check_names(training: Collection[str]) -> None:
    """Checks that further keyword arguments of `Pretraining` are training settings.

    Raises:
        TypeError: there is no such argument; the nearest name is suggested.
    """
    known = [field.name for field in dataclasses.fields(TrainingConfig)]
    known += ["method", "encoder", "views", "data", "projector", "optimizers", "seed"]
    for name in training:
        if name not in known:
            hint = did_you_mean(name, known)
            raise TypeError(f"Pretraining has no argument {name!r}{hint}")


def as_method(method: Any, embedding_dim: int) -> Method:
    """The method, made for the width of the embedding if a function is given.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(method, Method) and callable(method):
        method = method(embedding_dim)
    require(
        isinstance(method, Method),
        "method: expected caco_jax.methods.caco(...) or its like, a Method, or a "
        f"function embedding_dim -> Method, got {method!r}",
    )
    return method


def check_sizes(training: TrainingConfig, data: Dataset, devices: int) -> None:
    """Checks the batch against the data and the devices.

    Raises:
        ConfigError: it does not fit.
    """
    batch_size, count, parts = (
        training.batch_size,
        data.train_count,
        training.microbatches,
    )
    require(count > 1, f"data: expected at least 2 images, {data.name} has {count}")
    with Conflicts() as found:
        found.require(
            batch_size <= count,
            f"batch_size: expected at most {count}, the training images of "
            f"{data.name}, got {batch_size}",
        )
        found.require(
            batch_size % devices == 0,
            f"batch_size: expected a multiple of the {devices} devices, got "
            f"{batch_size}",
        )
        found.require(
            batch_size % devices != 0
            or (batch_size % parts == 0 and batch_size // parts % devices == 0),
            f"microbatches: expected parts of the batch that the {devices} devices "
            f"share evenly, got {parts} parts of {batch_size // parts} images",
        )


def view_shapes(run: "Pretraining") -> list[jax.ShapeDtypeStruct]:
    """The shape and dtype of each view of a batch of one example.

    Raises:
        ConfigError: a view cannot be made of these examples.
    """
    require(
        run.data.in_memory or run.views.are_photos,
        f"views: expected views of photographs, {run.data.name} is streamed",
    )
    examples = step_examples(run.data, run.views, 1)
    make = make_views(run.views)
    try:
        return list(jax.eval_shape(make, jax.random.key(0), examples))
    except ConfigError:
        raise
    # A view is the user's own code, which may raise anything.
    except Exception as error:
        raise ConfigError(
            "views: expected functions (key, example) -> example for examples of "
            f"{run.data.name}, {examples}; they raise {one_line(error)}"
        ) from error


def check_method(run: "Pretraining", optimizers: Collection[str]) -> None:
    """Checks the method against views, optimisers, devices and encoder.

    Args:
        run: the run.
        optimizers: players whose optimiser was given.

    Raises:
        ConfigError: they do not fit.
    """
    with Conflicts() as found:
        with found.noting():
            check_views(run.method, [view.shape[1:] for view in run.view_shapes])
        _check_optimizers(run, optimizers, found)
        _check_rows(run, found)
        _check_neighbours(run, found)
        found.require(
            not run.method.twin
            or run.encoder.has_twin
            or not jax.tree.leaves(jax.eval_shape(run.new_network).stats),
            f"encoder: {run.encoder.name} has BatchNorm and takes no `branch`; an "
            "input adversary (CLAE) needs BatchNorm with an adversarial twin, such as "
            "caco_jax.nets.BatchNorm(adversarial_branch=True), and a network that "
            "hands `branch` on to it; or a network without BatchNorm",
        )


def _check_neighbours(run: "Pretraining", found: Conflicts) -> None:
    """Checks that the kNN monitor has at least k training images."""
    most, data = run.evaluation.knn_train_images, run.data
    if not data.has_labels:
        return
    part = open_part(data, "evaluation_train")
    count = min(len(part) if part is not None else data.train_count, most)
    found.require(
        run.evaluation.knn_neighbours <= count,
        f"evaluation.knn_neighbours: expected at most {count}, the training images "
        f"that neighbours are found among, got {run.evaluation.knn_neighbours}",
    )


def _check_optimizers(
    run: "Pretraining", given: Collection[str], found: Conflicts
) -> None:
    unknown = set(given) - run.optimizers.keys()
    found.require(
        not unknown,
        f"optimizers: expected some of {', '.join(sorted(run.optimizers))}, the "
        f"players of {run.method.name} that move; got {sorted(unknown)}",
    )
    for name, part in run.optimizers.items():
        found.require(
            isinstance(part, OptimizerConfig | optax.GradientTransformation),
            f"optimizers: expected an optax transformation or an OptimizerConfig for "
            f"{name}, got {part!r}",
        )
    with found.noting():
        check_optimizers(run.optimizers, epochs=run.training.epochs)


def _check_rows(run: "Pretraining", found: Conflicts) -> None:
    """Checks that the devices divide the number of sharded rows."""
    method, devices = run.method, run.mesh.size
    for tree in jax.eval_shape(method.init, run.keys.players):
        for name in tree.keys() & method.row_sharded.keys():
            rows = tree[name].shape[:1]
            found.require(
                rows != () and rows[0] % devices == 0,
                f"method.{method.row_sharded[name]}: expected a multiple of the "
                f"{devices} devices, got {rows[0] if rows else 'a scalar'}",
            )


def check_views(method: Method, shapes: list[tuple[int, ...]]) -> None:
    """Checks the number and sizes of the views that a method gets.

    Args:
        method: the method.
        shapes: of each view of one example.

    Raises:
        ConfigError: a number of views that the method does not take, or a small crop
            before or larger than a large one.
    """
    expected = "two views or more" if method.multicrop else "two views"
    require(
        len(shapes) == 2 or (method.multicrop and len(shapes) > 2),
        f"views: expected {expected} for {method.name}, got {len(shapes)}",
    )
    lengths = [shape[0] for shape in shapes if shape]
    require(
        lengths == sorted(lengths, reverse=True),
        f"views: expected no crop larger than those before it, got heights {lengths}",
    )
