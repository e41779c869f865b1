"""Image sets as TFDS writes them, in ArrayRecord, made without TensorFlow."""

import io
import json

import tensorflow_datasets as tfds
from array_record.python import array_record_module


def write_set(
    data_dir,
    name,
    splits,
    *,
    class_names=(),
    listed=False,
    shape=(None, None, 3),
    version="1.0.0",
):
    """Writes a set of encoded images.

    Args:
        data_dir: where prepared sets lie.
        name: "set" or "set/config".
        splits: for each split's name, (encoded image, label) pairs.
        class_names: none: the set has no labels.
        listed: whether a label is a list of classes, in the feature "labels".
        shape: of all images.
        version: of the set.
    """
    directory = data_dir / name / version
    directory.mkdir(parents=True)
    kind = tfds.features.ClassLabel(names=class_names)
    key = "labels" if listed else "label"
    labels = {key: tfds.features.Sequence(kind) if listed else kind}
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=shape), **(labels if class_names else {})}
    )
    features.save_config(directory)
    base = name.partition("/")[0]
    rows = []
    for split, pairs in splits.items():
        file = directory / f"{base}-{split}.array_record-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1")
        for encoded, label in pairs:
            example = {"image": io.BytesIO(encoded)}
            if class_names:
                example[key] = label
            writer.write(features.serialize_example(features.encode_example(example)))
        writer.close()
        rows.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": str(sum(len(encoded) for encoded, _ in pairs)),
                "shardLengths": [str(len(pairs))],
            }
        )
    info = {"name": base, "version": version, "fileFormat": "array_record"}
    info["splits"] = rows
    (directory / "dataset_info.json").write_text(json.dumps(info))
    return directory
