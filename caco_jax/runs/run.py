"""A finished or unfinished run, read back from its directory."""

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

# Of features: what the network gives, and two to compare it with.
KINDS = ("backbone", "embedding", "random", "raw")
# Examples at a time, through the network.
_BATCH_ROWS = 128


class Run(NamedTuple):
    """A run and its newest state.

    Attributes:
        files: its directory.
        pretraining: its parts.
        state: of its newest checkpoint.
        data: what it is evaluated on, its own set if not another one.
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
        """Features of examples, as evaluation takes them: nothing is random.

        Args:
            examples: [M, ...] like those that the run was trained on. Images, uint8
                [M, H, W, 1 or 3], of another size or of other channels become such.
            batch_size: examples at a time.

        Raises:
            ValueError: there are none.
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
        """Features and labels of the labelled examples and of those held out.

        Args:
            kind: "backbone" for what evaluation uses, "embedding" for what the loss
                sees; to compare with, "random" for the backbone before training, "raw"
                for the examples themselves.

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
        """Share of held-out examples that their nearest neighbours name rightly.

        Args:
            kind: of features, as in `features`.
            k: neighbours, among the labelled examples.
            temperature: of their votes.

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
        """What the run measured, a row an epoch: losses, the method's own, "knn"."""
        return self.files.read_metrics()


def read_run(pretraining: Pretraining, workdir: str | os.PathLike) -> Run:
    """The run of a directory, by the parts that it was made of.

    Args:
        pretraining: the parts.
        workdir: the directory.

    Raises:
        UserError: there is no run, it saved nothing yet, or its state is another.
    """
    files = Workdir(workdir, complete=pretraining.description.complete)
    files.read_config()  # which says so where there is no run
    require_checkpoints(files)
    with Checkpoints(files) as checkpoints:
        state = restore_state(pretraining, checkpoints)
    return Run(files, pretraining, state, pretraining.data)


def require_checkpoints(files: Workdir) -> None:
    """Raises UserError where a run has saved nothing yet."""
    Checkpoints(files).require_some()


class Embedder(NamedTuple):
    """A trained encoder, without the rest of its run.

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

        See `Run.embed`; nothing is converted here, where the run's set is not known.
        """
        compute = make_features(self.encoder, self.preprocess)
        return extract_features(
            compute, self.network, np.asarray(examples), batch_size=batch_size
        )


def restore_state(
    pretraining: Pretraining, checkpoints: Checkpoints, *, step: int | None = None
) -> TrainState:
    """A checkpoint's state, on the run's devices; without a step the newest."""
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
    """A function of a network: features of training and held-out examples.

    It is compiled once, however many networks it is asked about. Unreadable images of
    a streamed set are left out, with their labels.

    Args:
        pretraining: the run, for its encoder.
        data: the examples; None: those that it trains on.
        bad: counts the unreadable training images of a streamed set, together with
            whoever else reads them; None: anew.
        most_train: training examples at most, spread evenly over the set; None: all.
        kind: "backbone" for what evaluation uses, "embedding" for what the loss sees.
        poll: called before every batch; what it raises ends the extraction.

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
    """Examples as their own features, bytes in [0, 1]: the floor for any encoder."""

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
            "config.data.source: expected images to evaluate with, none can be read"
        )
    columns = zip(*pieces, strict=True)
    return Split(*(jnp.asarray(np.concatenate(rows)) for rows in columns))


def read_summary(files: Workdir) -> dict[str, Any]:
    """What the run measured of itself."""
    return read_json(files.summary_file)
