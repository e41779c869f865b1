"""A run that is read from its directory, finished or not."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from caco_jax.data.dataset import Dataset
from caco_jax.data.fitting import fit_images
from caco_jax.data.labelled import Part, labelled_parts, spread_rows
from caco_jax.data.pipeline import BadImages
from caco_jax.evaluation.features import extract_features, make_features
from caco_jax.evaluation.knn import knn_accuracy
from caco_jax.methods.method import Network
from caco_jax.nets.functions import EncoderFunctions
from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.pretraining import Pretraining
from caco_jax.runs.workdir import Workdir, read_json
from caco_jax.schema import UserError
from caco_jax.training.state import TrainState

# Kinds of features: outputs of the network, and two baselines.
KINDS = ("backbone", "embedding", "random", "raw")
# Examples in one batch of the network.
_BATCH_ROWS = 128


class Run(NamedTuple):
    """A run and its newest state.

    Attributes:
        files: its directory.
        pretraining: its parts.
        state: state of its newest checkpoint.
        data: data set to evaluate on, by default its own.
    """

    files: Workdir
    pretraining: Pretraining
    state: TrainState
    data: Dataset

    @property
    def network(self) -> Network:
        """The online encoder."""
        return Network(self.state.players["encoder"], self.state.stats)

    def embed(
        self, examples: Shaped[np.ndarray, "m *example"], *, batch_size: int = 128
    ) -> Float[np.ndarray, "m f"]:
        """Features of examples without augmentation, as in evaluation.

        Args:
            examples: [M, ...] like those that the run was trained on. Images, uint8
                [M, H, W, 1 or 3], are converted to the run's size and channels.
            batch_size: examples in one batch.

        Raises:
            ValueError: there are no examples.
        """
        size_pixels = self.pretraining.views.largest_photo_pixels
        fitted = fit_images(
            np.asarray(examples), self.pretraining.data, size_pixels=size_pixels
        )
        compute = make_features(
            self.pretraining.encoder, self.pretraining.evaluation_input()
        )
        return extract_features(compute, self.network, fitted, batch_size=batch_size)

    def features(self, *, kind: str = "backbone") -> tuple["Split", "Split"]:
        """Features and labels of the labelled training and held-out examples.

        Args:
            kind: "backbone" for the features of evaluation, "embedding" for the output
                of the projector; as baselines "random" for a backbone before training
                and "raw" for the examples themselves.

        Raises:
            UserError: there are no labels.
            ValueError: an unknown kind.
        """
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        if kind == "raw":
            return raw_features(self)
        random = kind == "random"
        compute = make_network_features(
            self.pretraining, data=self.data, kind="backbone" if random else kind
        )
        return compute(self.pretraining.new_network() if random else self.network)

    def knn(
        self, *, kind: str = "backbone", k: int = 20, temperature: float = 0.2
    ) -> float:
        """The kNN accuracy on the held-out examples, in [0, 1].

        Args:
            kind: kind of features, see `features`.
            k: number of neighbours among the labelled training examples.
            temperature: temperature of their votes.

        Raises:
            UserError: there are no labels.
            ValueError: an unknown kind, or a number out of range.
        """
        train, test = self.features(kind=kind)
        (share,) = knn_accuracy(
            *test,
            *train,
            num_classes=self.data.num_classes,
            settings=((k, temperature),),
        )
        return share

    def metrics(self) -> list[dict[str, Any]]:
        """Metrics of the run, one row for each epoch: losses, kNN accuracy, others."""
        return self.files.read_metrics()


def read_run(pretraining: Pretraining, workdir: str | os.PathLike) -> Run:
    """Reads the run of a directory, given its parts.

    Args:
        pretraining: the parts.
        workdir: the directory.

    Raises:
        UserError: there is no run, it saved nothing yet, or its arrays differ.
    """
    files = Workdir(workdir, complete=pretraining.description.complete)
    files.read_config()  # which raises if there is no run
    require_checkpoints(files)
    with Checkpoints(files) as checkpoints:
        state = restore_state(pretraining, checkpoints)
    return Run(files, pretraining, state, pretraining.data)


def require_checkpoints(files: Workdir) -> None:
    """Raises UserError if a run has saved nothing yet."""
    Checkpoints(files).require_some()


class Embedder(NamedTuple):
    """A trained encoder without the rest of its run.

    Attributes:
        encoder: its functions.
        network: its parameters.
        preprocess: a batch of examples -> the encoder's input.
    """

    encoder: EncoderFunctions
    network: Network
    preprocess: Callable[[Array], Array]

    def embed(
        self, examples: Shaped[np.ndarray, "m *example"], *, batch_size: int = 128
    ) -> Float[np.ndarray, "m f"]:
        """Features of examples of the size that the encoder was trained on.

        See `Run.embed`; images are not converted, because the run's data set is not
        known.
        """
        compute = make_features(self.encoder, self.preprocess)
        return extract_features(
            compute, self.network, np.asarray(examples), batch_size=batch_size
        )


def restore_state(
    pretraining: Pretraining, checkpoints: Checkpoints, *, step: int | None = None
) -> TrainState:
    """The state of a checkpoint, by default the newest, on the run's devices."""
    return checkpoints.restore(pretraining.state_shapes(), step=step)


class Split(NamedTuple):
    """Features and labels of one part of a set."""

    features: Float[Array, "m f"]
    labels: Int[Array, " m"]


def make_network_features(
    pretraining: Pretraining,
    *,
    data: Dataset | None = None,
    bad: BadImages | None = None,
    most_train: int | None = None,
    kind: str = "backbone",
    poll: Callable[[], None] = lambda: None,
) -> Callable[[Network], tuple[Split, Split]]:
    """Makes a function from a network to features of training and held-out examples.

    It is compiled once for all networks. Unreadable images of a streamed set are left
    out, with their labels.

    Args:
        pretraining: the run, for its encoder.
        data: the examples; None: the run's own.
        bad: counter of unreadable training images of a streamed set, which may be
            shared; None makes a new one.
        most_train: largest number of training examples, taken evenly from the set;
            None: all.
        kind: "backbone" for what evaluation uses, "embedding" for what the loss sees.
        poll: called before every batch; an exception of it ends the extraction.

    Raises:
        UserError: the examples have no labels to evaluate with.
    """
    compute = make_features(
        pretraining.encoder, pretraining.evaluation_input(), kind=kind
    )
    train, test = _parts(pretraining, data, bad)

    def features(network: Network, examples: Array) -> Float[Array, "b f"]:
        poll()
        return compute(network, examples)

    def of_network(network: Network) -> tuple[Split, Split]:
        def of_examples(examples: np.ndarray) -> np.ndarray:
            return extract_features(features, network, examples, batch_size=_BATCH_ROWS)

        return _split(train, of_examples, most_train), _split(test, of_examples)

    return of_network


def raw_features(run: Run) -> tuple[Split, Split]:
    """The examples themselves as features, bytes scaled to [0, 1]: a baseline."""

    def of_examples(examples: np.ndarray) -> np.ndarray:
        scale = 255 if examples.dtype == np.uint8 else 1
        return (examples / scale).astype(np.float32).reshape(len(examples), -1)

    train, test = _parts(run.pretraining, run.data)
    return _split(train, of_examples), _split(test, of_examples)


def _parts(
    pretraining: Pretraining, data: Dataset | None, bad: BadImages | None = None
) -> tuple[Part, Part]:
    size_pixels = pretraining.views.largest_photo_pixels
    try:
        return labelled_parts(
            data or pretraining.data, size_pixels=size_pixels, bad=bad
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def _split(
    part: Part,
    features: Callable[[np.ndarray], np.ndarray],
    at_most: int | None = None,
) -> Split:
    rows = spread_rows(len(part), at_most)
    pieces = [(features(examples), labels) for examples, labels in part.centers(rows)]
    if not pieces:
        raise UserError(
            "config.data.source: expected images to evaluate with, got none that can "
            "be read"
        )
    columns = zip(*pieces, strict=True)
    return Split(*(jnp.asarray(np.concatenate(rows)) for rows in columns))


def read_summary(files: Workdir) -> dict[str, Any]:
    """The summary of a run: time, throughput, memory."""
    return read_json(files.summary_file)
