"""What the evaluations share: which run, which images, and where figures go."""

import argparse
import dataclasses
import logging
import re
from collections.abc import Callable, Mapping
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
from caco_jax.programs.command import as_user_error
from caco_jax.runs.checkpoints import write_json
from caco_jax.runs.opening import data_notes
from caco_jax.runs.run import Run, Split
from caco_jax.runs.workdir import Workdir
from caco_jax.schema import ConfigError, UserError, require
from caco_jax.training.sharding import replicated, rows

logger = logging.getLogger("caco_jax")

_DATA_FLAGS = ("source", "data_dir", "train_split", "test_split")


def open_run(flags: argparse.Namespace, *, by_class: bool = True) -> Run:
    """The run of the flags, with the images of the flags.

    Args:
        flags: of the command.
        by_class: whether labelled images have to be of two classes or more.

    Raises:
        UserError: there is no such run, or its network cannot look at these images.
    """
    changes = data_changes(flags)
    run = load(flags)
    if changes:
        run = on_images(run, named_images(run, **changes))
    if by_class and run.data.has_labels and run.data.num_classes < 2:
        raise UserError(
            f"--source: expected images of two classes or more, {run.data.name} has "
            f"{run.data.num_classes}"
        )
    return run


def data_changes(flags: argparse.Namespace) -> dict[str, str]:
    """What the flags say of the images, by the keys of a configuration."""
    named = {name: getattr(flags, name) for name in _DATA_FLAGS}
    return {name: value for name, value in named.items() if value is not None}


def named_images(run: Run, **changes: Any) -> Dataset:
    """The images of a run's configuration with other values; says what is found.

    Args:
        run: the run.
        **changes: keys of the section ``data``.

    Raises:
        UserError: there are none.
    """
    data = build_data(dataclasses.replace(saved_config(run.files).data, **changes))
    if len(notes := data_notes(data)) > 1:  # a layout was guessed
        for line in notes:
            logger.info("%s", line)
    return data


def load(flags: argparse.Namespace) -> Run:
    """The run of the flags, on its own images.

    If the flags name others and it is one on photographs, its own need not be there.

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
        logger.info("the run's own images are not there: %s", error)
    count: Any = range(config.training.batch_size)  # nobody looks at them
    return load_run(workdir, data=RecordDataset(config.data.source, count))


def on_images(run: Run, data: Dataset) -> Run:
    """The run, to be evaluated on other images than its own.

    Raises:
        UserError: they cannot become such as its network takes.
    """
    size_pixels = run.pretraining.views.largest_photo_pixels
    with as_user_error("--source"):
        fitted = fit_to(data, run.pretraining.data, size_pixels=size_pixels)
    if fitted is not data:
        logger.info("the images get the size and channels of those of the run")
    return run._replace(data=fitted)


def run_features(run: Run, *, kind: str = "backbone") -> tuple[Split, Split]:
    """Features of the images to learn from and of those held out; see `Run.features`.

    Raises:
        UserError: there are no labels, or a feature is not finite.
    """
    parts = run.features(kind=kind)
    for part in parts:
        with as_user_error(f"--workdir: of {run.data.name}"):
            checks.require_finite(np.isfinite(np.asarray(part.features)).all())
    return parts


def run_parts(run: Run) -> tuple[Part, Part]:
    """The labelled images to learn from, and those held out.

    Raises:
        UserError: there are no labels.
    """
    size_pixels = run.pretraining.views.largest_photo_pixels
    with as_user_error("--source"):
        return labelled_parts(run.data, size_pixels=size_pixels)


def unseen_part(run: Run) -> tuple[Part, str]:
    """The images held out or, where none are, those trained on; what they are called.

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
    raise UserError(f"--source: expected images, {run.data.name} has none")


def training_views(run: Run) -> Callable[..., tuple[jax.Array, ...]]:
    """(key, pixels) -> the view that a classifier is trained on."""
    views = run.pretraining.views
    return make_views(dataclasses.replace(views, views=(training_view(views),)))


def frozen_network(run: Run) -> Frozen:
    """The run's network, as it stays."""
    encoder = run.pretraining.encoder
    return Frozen(
        run.network,
        make_view_features(encoder, training_views(run)),
        make_features(encoder, run.pretraining.evaluation_input()),
    )


def put_batch(run: Run) -> Callable[[Any], Any]:
    """Spreads a batch's rows over the devices, if they can be."""
    mesh = run.pretraining.mesh

    def put(batch: Any) -> Any:
        count = len(jax.tree.leaves(batch)[0])
        spread = count % mesh.size == 0
        return jax.device_put(batch, rows(mesh) if spread else replicated(mesh))

    return put


def save(
    run: Run, flags: argparse.Namespace, name: str, figures: Mapping[str, Any]
) -> None:
    """Writes figures beside the run; those of other images under their name."""
    if flags.source is not None:
        name += "_" + re.sub(r"\W+", "_", flags.source).strip("_")
    step = int(run.state.step)
    images = run.data.name
    values = {"step": step, "images": images, **figures}
    write_json(run.files.path / f"{name}.json", values)


def summary(found: Accuracies, count: int) -> str:
    """The accuracies in words."""
    low, high = found.interval
    return (
        f"{found.top1:.2%} of {count} held-out images ({LEVEL:.0%} interval "
        f"{low:.2%} to {high:.2%}), top-5 {found.top5:.2%}"
    )


def figures(loaded: Run, found: Accuracies) -> dict[str, Any]:
    """The accuracies as they are saved; classes without images have none."""
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
    """Refuses flags that what is asked for would ignore.

    Args:
        flags: as parsed.
        names: those flags, with what they are where they are not given.
        wanted: what they belong to, such as "--protocol=imagenet".

    Raises:
        ConfigError: one was given.
    """
    for name, default in names.items():
        require(
            getattr(flags, name) == default,
            f"--{name}: expected it with {wanted} only; leave it out",
        )
