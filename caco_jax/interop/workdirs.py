"""Import of a file of weights as a run, and export of a run's weights."""

import os
import pathlib
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from caco_jax.config.build import build_run, saved_config
from caco_jax.config.parts import build_views
from caco_jax.config.sections import ExperimentConfig
from caco_jax.data.dataset import ArrayDataset
from caco_jax.interop import MEMORY, files
from caco_jax.interop.states import (
    BACKBONE,
    contents,
    fill_state,
    parts_of,
    state_arrays,
)
from caco_jax.methods.method import Network
from caco_jax.nets import ResNet
from caco_jax.runs.buckets import exists
from caco_jax.runs.checkpoints import Checkpoints, Workdir, write_json
from caco_jax.runs.pretraining import Pretraining
from caco_jax.runs.run import require_checkpoints, restore_state
from caco_jax.schema import UserError, require
from caco_jax.training.sharding import make_mesh
from caco_jax.training.state import TrainState, create_state

# A run that is trained further counts from this step.
_NO_TRAINING = {
    "epochs": 0,
    "steps": 0,
    "images": 0,
    "pretrain_seconds": 0.0,
    "images_per_second": 0.0,
    "peak_memory_bytes": 0,
}


def import_run(
    file: str | os.PathLike,
    config: ExperimentConfig,
    workdir: str | os.PathLike,
    *,
    parts: Collection[str] | None = None,
    encoder: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Makes a run from a file of weights, for every other command.

    The run is at step 0 of its configuration: training starts from these weights, with
    new optimisers and schedules and without a start-up phase. Parts that the file does
    not have are as in a new run, except that the target encoder and adversarial
    branches of norms are copies. Photographs of the configuration may be missing.

    Args:
        file: see `caco_jax.interop.files.read_weights`; `caco_jax.interop.layouts`
            lists the names that are read.
        config: configuration of the run, with the network and bank of the file.
        workdir: directory of the run, without a run.
        parts: "backbone" (always), "projector", "bank": the parts to import. None: all
            that the file has.
        encoder: for a file of several encoders a part of the prefix of one, such as
            "teacher"; None: the one that is no moving average.
        force: whether to move an existing run to ``<workdir>.old``.

    Returns:
        The content of ``imported.json`` in the workdir: "file"; which parts are
        "imported" and which "fresh"; the "prefix" of the encoder; prefixes of the
        file's other "encoders"; and the number of its arrays that are "left_out", by
        prefix.

    Raises:
        UserError: the file cannot be read, is of another network, or lacks a part or
            encoder that was asked for; or the directory holds a run. Nothing was
            written.
    """
    place = Workdir(workdir)
    _check_free(place, force=force)
    content = files.read_weights(file)
    pretraining = _build(config)
    template = jax.eval_shape(pretraining.initial_state)
    try:
        weights = parts_of(content, template, encoder=encoder)
        state, imported = fill_state(
            template, weights, parts, method=pretraining.method
        )
    except ValueError as error:
        raise UserError(f"--file: {file}: {error}") from None
    state = _complete(state, pretraining)
    place.claim(pretraining.description.values, force_new=force)
    with Checkpoints(place) as checkpoints:
        checkpoints.save(state)
    fresh = [
        name
        for name in contents(template, pretraining.method.memory)
        if name not in imported
    ]
    memory = pretraining.method.memory
    report = {
        "file": str(file),
        "imported": imported,
        "fresh": fresh,
        "prefix": weights.prefix,
        "encoders": [one for one in weights.encoders if one != weights.prefix],
        "left_out": weights.left_out(
            [MEMORY if part == memory else part for part in imported]
        ),
    }
    write_json(place.summary_file, _NO_TRAINING)
    write_json(place.path / "imported.json", report)
    return report


def export_run(
    workdir: str | os.PathLike,
    file: str | os.PathLike,
    *,
    parts: Collection[str] = (BACKBONE,),
    force: bool = False,
) -> dict[str, Any]:
    """Writes a run's online encoder and other parts to a file.

    Names are torchvision's, or timm's for a ViT; those of a projector start with "fc.".
    A bank is "Memory_Bank.W", a queue "queue" with "queue_ptr", both with one entry in
    each column.

    Args:
        workdir: directory of the run; its images may be missing if they are
            photographs.
        file: see `caco_jax.interop.files.write_weights`; its suffix gives the format.
        parts: any of `caco_jax.interop.states.PARTS`.
        force: whether to replace a file that exists.

    Returns:
        "step" of the run, and the counts "arrays" and "numbers" of what was written.

    Raises:
        UserError: there is no run, it lacks a part, detectron2 has no such part, or the
            file exists.
    """
    files.check_writable(file, force=force)
    if pathlib.Path(file).suffix == files.DETECTRON2 and set(parts) != {BACKBONE}:
        raise UserError(
            "--parts: expected backbone alone for detectron2's .pkl, got "
            f"{', '.join(parts)}"
        )
    pretraining, state = _restore(Workdir(workdir))
    require(
        pathlib.Path(file).suffix != files.DETECTRON2
        or isinstance(getattr(pretraining.encoder.module, "backbone", None), ResNet),
        "--file: expected a ResNet for detectron2's .pkl, got a run of "
        f"{pretraining.encoder.name}; name a file that ends in .pth or .safetensors",
    )
    arrays = state_arrays(state, parts, memory=pretraining.method.memory)
    files.write_weights(file, arrays, force=force)
    return {
        "step": int(state.step),
        "arrays": len(arrays),
        "numbers": sum(array.size for array in arrays.values()),
    }


def _check_free(place: Workdir, *, force: bool) -> None:
    is_run = place.has_run()
    if (is_run and not force) or (exists(place.checkpoints) and not is_run):
        aside = ", or --force to move it aside" if is_run else ""
        raise UserError(
            f"--workdir: expected a directory without a run, got {place.path}; name "
            f"another directory{aside}"
        )


def _build(config: ExperimentConfig) -> Pretraining:
    """The parts of a run on one device; its photographs may be missing."""
    views, data = build_views(config.data), None
    if views.are_photos:  # photographs have three channels
        size = max(views.photo_sizes)
        shape = (config.training.batch_size, size, size, 3)
        pixels: Any = jax.ShapeDtypeStruct(shape, np.uint8)
        data = ArrayDataset(config.data.source, pixels, None, pixels, None)
    return build_run(config, mesh=make_mesh(jax.devices()[:1]), data=data)


def _restore(place: Workdir) -> tuple[Pretraining, TrainState]:
    pretraining = _build(saved_config(place))
    require_checkpoints(place)
    with Checkpoints(place) as checkpoints:
        return pretraining, restore_state(pretraining, checkpoints)


def _complete(state: TrainState, pretraining: Pretraining) -> TrainState:
    """Replaces shapes in the state by new arrays."""
    network = Network(state.players["encoder"], state.stats)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(network)):
        network = _merge(
            network, pretraining.new_network()
        )  # drawing new arrays compiles first
    fresh = create_state(
        pretraining.keys.players,
        pretraining.method,
        network,
        pretraining.training_optimizer(),
    )
    state = _merge(state, fresh)
    return pretraining.place(state)


def _merge(tree: Any, fresh: Any) -> Any:
    return jax.tree.map(
        lambda leaf, new: new if isinstance(leaf, jax.ShapeDtypeStruct) else leaf,
        tree,
        fresh,
    )
