"""The linear probe for multi-label images, such as PASCAL VOC's.

It fits one logistic regression for each class, all together, and measures their mean
average precision.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from caco_jax.data.dataset import Dataset, RecordDataset
from caco_jax.data.records import Record, TfdsRecords
from caco_jax.evaluation import checks, linear
from caco_jax.evaluation.scores import mean_average_precision


def fit_independent(
    features: Float[Array, "m f"],
    relevant: Int[Array, "m c"],
    *,
    l2: float = linear.L2,
) -> linear.LinearModel:
    """One logistic regression for each class, on standardised features, by L-BFGS.

    Minimises the mean over rows of the classes' summed binary cross entropies, plus
    l2/2·‖weights‖².

    Args:
        features: [M, F].
        relevant: [M, C], 1 where the row is of the class.
        l2: penalty, at least 0.

    Raises:
        ValueError: the arrays do not fit, an entry is neither 0 nor 1, or the penalty
            is negative or not finite.
    """
    features, relevant = checked(features, relevant)
    linear.check_penalties(l2)
    mean, scale = linear.standardiser(features)
    values = linear.standardised(features, mean, scale)
    return linear.LinearModel(*_minimise(values, relevant, l2), mean, scale)


def choose_l2(
    features: Float[Array, "m f"],
    relevant: Int[Array, "m c"],
    *,
    grid: Sequence[float] = linear.L2_GRID,
    held_out: float = 0.2,
    seed: int = 0,
) -> linear.L2Choice:
    """Chooses the penalty with the best mean average precision on held-out rows.

    See `linear.choose_l2`; the rows here are drawn regardless of their classes.
    """
    features, relevant = checked(features, relevant)
    linear.check_penalties(*grid)
    order = np.random.default_rng(seed).permutation(len(features))
    out, rest = np.split(order, [int(held_out * len(order))])
    if not grid or not len(out) or not len(rest):
        raise ValueError(
            f"grid, held_out: expected a penalty or more and rows on both sides, got "
            f"{len(grid)} penalties and {len(out)} of {len(order)} rows held out"
        )
    mean, scale = linear.standardiser(features[rest])
    values = linear.standardised(features, mean, scale)
    fits = jax.vmap(lambda l2: _minimise(values[rest], relevant[rest], l2))(
        jnp.asarray(grid, values.dtype)
    )
    wanted = np.asarray(relevant[out])
    found = {}
    for l2, weights, bias in zip(grid, *fits, strict=True):
        scores = np.asarray(values[out] @ weights + bias[None])
        found[float(l2)] = mean_average_precision(scores, wanted)
    return linear.L2Choice(max(found, key=lambda l2: (found[l2], l2)), found)


def checked(
    features: Float[Array, "m f"], relevant: Int[Array, "m c"]
) -> tuple[Float[Array, "m f"], Int[Array, "m c"]]:
    """Checks the arrays, and returns them on the device.

    Raises:
        ValueError: a shape does not fit, a feature is not finite, or an entry of
            `relevant` is neither 0 nor 1.
    """
    known = np.asarray(relevant)
    if (
        np.ndim(features) != 2
        or known.ndim != 2
        or 0 in known.shape
        or len(known) != len(features)
    ):
        raise ValueError(
            "expected features [M, F] and labels [M, C], got shapes "
            f"{np.shape(features)} and {known.shape}"
        )
    if not np.isin(known, (0, 1)).all():
        raise ValueError("labels: expected 0 or 1 for each class of a row")
    return checks.finite_floats(features), jnp.asarray(known.astype(np.int32))


def _minimise(
    values: jax.Array, relevant: jax.Array, l2: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    return linear.minimise(
        values, relevant, num_classes=relevant.shape[1], l2=l2, losses=_sigmoid_losses
    )


def _sigmoid_losses(
    scores: Float[Array, "m c"], relevant: Int[Array, "m c"]
) -> Float[Array, " m"]:
    wanted = relevant.astype(scores.dtype)
    return optax.sigmoid_binary_cross_entropy(scores, wanted).sum(axis=1)


class MultilabelRecords:
    """Records of a TFDS split, labelled by all classes of an image.

    Args:
        records: of the split.
        feature: name of the feature that lists the classes.
        num_classes: C.
    """

    def __init__(self, records: TfdsRecords, feature: str, num_classes: int) -> None:
        self._records, self._feature = records, feature
        self._num_classes = num_classes

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        label = np.zeros(self._num_classes, np.int32)
        label[np.asarray(self._records.value(index, self._feature), int)] = 1
        return self._records[index]._replace(label=label)


def multilabel_set(images: Dataset, feature: str) -> RecordDataset:
    """Labels a data set by a feature that lists classes.

    Args:
        images: a TFDS set of records.
        feature: its name, such as "labels".

    Raises:
        ValueError: it is another kind of set, or the feature is no list of classes.
    """
    parts = (images.train, images.test) if isinstance(images, RecordDataset) else ()
    known: list[TfdsRecords] = [p for p in parts if isinstance(p, TfdsRecords)]
    if len(known) < 2:
        raise ValueError(
            "expected a prepared TFDS set of images of several sizes, with a part held "
            f"out, got {images.name}"
        )
    names = class_list(known[0], feature)
    train, test = (MultilabelRecords(part, feature, len(names)) for part in known)
    return RecordDataset(images.name, train, test, names)


def class_list(records: TfdsRecords, feature: str) -> tuple[str, ...]:
    """The classes of a feature.

    Raises:
        ValueError: there is no such feature, or it lists something else.
    """
    import tensorflow_datasets as tfds

    features = records.features()
    lists = {
        name: kind.feature.names
        for name, kind in features.items()
        if isinstance(kind, tfds.features.Sequence)
        and isinstance(kind.feature, tfds.features.ClassLabel)
    }
    if feature not in lists:
        known = (
            f"one of {', '.join(sorted(lists))}" if lists else "but the set has none"
        )
        raise ValueError(
            f"expected a feature that lists classes, {known}; got {feature!r}"
        )
    return tuple(lists[feature])
