"""Shared code of the evaluations: the run, its images, and where results are saved."""

import argparse
import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from caco_jax.config.build import load_run, saved_config
from caco_jax.config.parts import build_data, build_views
from caco_jax.data.dataset import Dataset, RecordDataset
from caco_jax.data.fitting import fit_to
from caco_jax.data.labelled import Part, labelled_parts, open_part, training_view
from caco_jax.data.views import make_views
from caco_jax.evaluation import checks
from caco_jax.evaluation.features import make_features, make_view_features
from caco_jax.evaluation.scores import LEVEL, Accuracies
from caco_jax.evaluation.sweep import Frozen
from caco_jax.programs.command import as_user_error, print_json
from caco_jax.runs.checkpoints import write_json
from caco_jax.runs.opening import data_notes
from caco_jax.runs.run import Run, Split
from caco_jax.runs.workdir import Workdir
from caco_jax.schema import ConfigError, UserError, require
from caco_jax.training.sharding import replicated, rows

logger = logging.getLogger("caco_jax")

_DATA_FLAGS = ("source", "data_dir", "train_split", "test_split")


def open_run(flags: argparse.Namespace, *, by_class: bool = True) -> Run:
    """The run and the images that the flags name.

    Args:
        flags: of the command.
        by_class: whether labelled images of at least two classes are required.

    Raises:
        UserError: there is no such run, or its network cannot encode these images.
    """
    changes = data_changes(flags)
    run = load(flags)
    if changes:
        run = on_images(run, named_images(run, **changes))
    if by_class and run.data.has_labels and run.data.num_classes < 2:
        raise UserError(
            f"--source: expected images of two classes or more, got {run.data.name} "
            f"with {run.data.num_classes}"
        )
    return run


def data_changes(flags: argparse.Namespace) -> dict[str, str]:
    """Configuration keys of the section ``data`` that the flags set."""
    named = {name: getattr(flags, name) for name in _DATA_FLAGS}
    return {name: value for name, value in named.items() if value is not None}


def named_images(run: Run, **changes: Any) -> Dataset:
    """The images of a run's configuration with changed values; logs what is found.

    Args:
        run: the run.
        **changes: keys of the section ``data``.

    Raises:
        UserError: there are none.
    """
    data = build_data(dataclasses.replace(saved_config(run.files).data, **changes))
    if len(notes := data_notes(data)) > 1:  # the layout of a folder was inferred
        for line in notes:
            logger.info("%s", line)
    return data


def load(flags: argparse.Namespace) -> Run:
    """The run that the flags name, with its own images.

    If the flags name other images and the run uses photographs, its own may be missing.

    Raises:
        UserError: there is no run, or its network cannot be known without its images.
    """
    workdir = flags.workdir
    try:
        return load_run(workdir)
    except ConfigError as error:
        if not (data_changes(flags) and str(error).startswith("config.data.")):
            raise
        config = saved_config(Workdir(workdir))
        if not build_views(config.data).are_photos:
            raise
        logger.info("the run's own images are missing: %s", error)
    count: Any = range(config.training.batch_size)  # they are not used
    return load_run(workdir, data=RecordDataset(config.data.source, count))


def on_images(run: Run, data: Dataset) -> Run:
    """The run with other images than its own, to evaluate it on them.

    Raises:
        UserError: the images cannot be converted to inputs of its network.
    """
    size_pixels = run.pretraining.views.largest_photo_pixels
    with as_user_error("--source"):
        fitted = fit_to(data, run.pretraining.data, size_pixels=size_pixels)
    if fitted is not data:
        logger.info("the images get the size and channels of those of the run")
    return run._replace(data=fitted)


def run_features(run: Run, *, kind: str = "backbone") -> tuple[Split, Split]:
    """Features of the training images and of the held-out images; see `Run.features`.

    Raises:
        UserError: there are no labels, or a feature is not finite.
    """
    parts = run.features(kind=kind)
    for part in parts:
        with as_user_error(f"--workdir: of {run.data.name}"):
            checks.require_finite(np.isfinite(np.asarray(part.features)).all())
    return parts


def run_parts(run: Run) -> tuple[Part, Part]:
    """The labelled training images and the held-out images.

    Raises:
        UserError: there are no labels.
    """
    size_pixels = run.pretraining.views.largest_photo_pixels
    with as_user_error("--source"):
        return labelled_parts(run.data, size_pixels=size_pixels)


def unseen_part(run: Run) -> tuple[Part, str]:
    """The held-out images or, if there are none, the training images; and their name.

    Labels are not needed.

    Raises:
        UserError: there are no images.
    """
    size_pixels = run.pretraining.views.largest_photo_pixels
    part = open_part(run.data, "test", size_pixels=size_pixels)
    if part is not None and len(part):
        return part, "held-out"
    part = open_part(run.data, "train", size_pixels=size_pixels)
    if part is not None and len(part):
        return part, "training"
    raise UserError(f"--source: expected images, got none in {run.data.name}")


def training_views(run: Run) -> Callable[..., tuple[jax.Array, ...]]:
    """Makes (key, pixels) -> the augmented view that a classifier is trained on."""
    views = run.pretraining.views
    return make_views(dataclasses.replace(views, views=(training_view(views),)))


def frozen_network(run: Run) -> Frozen:
    """The network of the run, with frozen weights."""
    encoder = run.pretraining.encoder
    return Frozen(
        run.network,
        make_view_features(encoder, training_views(run)),
        make_features(encoder, run.pretraining.evaluation_input()),
    )


def put_batch(run: Run) -> Callable[[Any], Any]:
    """Shards the rows of a batch over the devices, if their number divides."""
    mesh = run.pretraining.mesh

    def put(batch: Any) -> Any:
        count = len(jax.tree.leaves(batch)[0])
        spread = count % mesh.size == 0
        return jax.device_put(batch, rows(mesh) if spread else replicated(mesh))

    return put


def save(
    run: Run, flags: argparse.Namespace, name: str, figures: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes results into the run's directory, under the name of other images.

    Returns:
        What was written.
    """
    if flags.source is not None:
        name += "_" + re.sub(r"\W+", "_", flags.source).strip("_")
    step = int(run.state.step)
    images = run.data.name
    values = {"step": step, "images": images, **figures}
    write_json(run.files.path / f"{name}.json", values)
    return values


def finish(
    run: Run,
    flags: argparse.Namespace,
    name: str,
    figures: Mapping[str, Any],
    lines: Iterable[str],
) -> None:
    """Writes figures beside the run, then prints them.

    Args:
        run: the run.
        flags: of the command; with --json the figures are printed as they are saved.
        name: of the file.
        figures: to be saved.
        lines: for people, the result first.
    """
    values = save(run, flags, name, figures)
    print_json(flags, values)
    if not flags.json:
        print("\n".join(lines))


def summary(found: Accuracies, count: int) -> str:
    """The accuracies as text."""
    low, high = found.interval
    return (
        f"{found.top1:.2%} of {count} held-out images ({LEVEL:.0%} interval "
        f"{low:.2%} to {high:.2%}), top-5 {found.top5:.2%}"
    )


def figures(loaded: Run, found: Accuracies) -> dict[str, Any]:
    """The accuracies as saved; classes without images are left out."""
    by_class = zip(loaded.data.class_names, found.by_class, strict=True)
    return {
        "accuracy": found.top1,
        "top5": found.top5,
        "interval": found.interval,
        "by_class": {
            name: None if np.isnan(share) else float(share) for name, share in by_class
        },
    }


def check_flags(
    flags: argparse.Namespace, names: Mapping[str, Any], wanted: str
) -> None:
    """Refuses flags that the chosen protocol would ignore.

    Args:
        flags: the parsed flags.
        names: flags of another protocol, with their defaults.
        wanted: the flag that they need, such as "--protocol=imagenet".

    Raises:
        ConfigError: one was given.
    """
    for name, default in names.items():
        require(
            getattr(flags, name) == default,
            f"--{name}: expected it with {wanted} only; leave it out",
        )
