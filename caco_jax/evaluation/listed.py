"""TFDS sets whose images show several classes: PASCAL VOC's, for instance."""

import numpy as np

from caco_jax.data.dataset import Dataset, RecordDataset
from caco_jax.data.records import Record, TfdsRecords


class ListedRecords:
    """The records of a TFDS split, labelled by all classes that an image shows.

    Args:
        records: of the split.
        feature: what lists the classes.
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


def listed_set(images: Dataset, feature: str) -> RecordDataset:
    """The set, labelled by a feature that lists classes.

    Args:
        images: a TFDS set that is read by the record.
        feature: its name, such as "labels".

    Raises:
        ValueError: it is another kind of set, or the feature is no list of classes.
    """
    parts = (images.train, images.test) if isinstance(images, RecordDataset) else ()
    known: list[TfdsRecords] = [p for p in parts if isinstance(p, TfdsRecords)]
    if len(known) < 2:
        raise ValueError(
            f"want a prepared TFDS set of images of several sizes, with a part held "
            f"out, got {images.name}"
        )
    names = class_list(known[0], feature)
    train, test = (ListedRecords(part, feature, len(names)) for part in known)
    return RecordDataset(images.name, train, test, names)


def class_list(records: TfdsRecords, feature: str) -> tuple[str, ...]:
    """The classes that a feature lists.

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
        raise ValueError(f"want a feature that lists classes, {known}; got {feature!r}")
    return tuple(lists[feature])
