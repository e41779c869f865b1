"""Digests of a checkpoint's files, to find damaged and incomplete checkpoints."""

import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorstore

from caco_jax.runs import buckets

MANIFEST = "manifest.json"
# Orbax writes these last, after the manifest; nothing in them is needed to restore.
_AFTERWARDS = {"_CHECKPOINT_METADATA", buckets.COMMITTED}


def write_manifest(folder: pathlib.Path) -> None:
    """Writes the digests of all files of a complete checkpoint.

    For objects in a bucket, which have digests of their own, it writes only the sizes.
    """
    entries = json.dumps(
        {
            str(path.relative_to(folder)): [buckets.size_bytes(path), _digest(path)]
            for path in _files(folder)
            if path.name not in _AFTERWARDS
        }
    )
    digest = hashlib.sha256(entries.encode()).hexdigest()
    (folder / MANIFEST).write_text(f"{digest}\n{entries}\n")


def find_damage(folder: pathlib.Path) -> str | None:
    """The damage of a checkpoint, or None.

    Every file is read.

    Args:
        folder: of one checkpoint.
    """
    try:
        digest, _, entries = (folder / MANIFEST).read_text().partition("\n")
    except (OSError, UnicodeDecodeError):
        return f"{MANIFEST} cannot be read"
    entries = entries.removesuffix("\n")
    if hashlib.sha256(entries.encode()).hexdigest() != digest:
        return f"{MANIFEST} does not match its digest"
    for name, (size, expected) in json.loads(entries).items():
        path = folder / name
        try:
            found = buckets.size_bytes(path)
            if found != size:
                return f"{name} has {found} bytes of {size}"
            if expected is not None and _digest(path) != expected:
                return f"{name} does not match its digest"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    # Orbax overlooks a checkpoint without this one.
    if not (folder / buckets.COMMITTED).is_file():
        return f"{buckets.COMMITTED} cannot be read"
    return None


def find_missing(folder: pathlib.Path) -> str | None:
    """The name of an array that a restore would not find, or None.

    Orbax may write all of a state but not the index that a restore needs. No values are
    read.

    Args:
        folder: of one checkpoint.
    """
    try:
        arrays = list(_arrays(folder / "state" / "_METADATA"))
        there = _stored(folder / "state")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return f"state cannot be opened: {reason[:200]}"
    missing = [name for name in arrays if name not in there]
    if missing:
        return f"{len(missing)} of {len(arrays)} arrays are missing, as {missing[0]}"
    return None


def _arrays(metadata: pathlib.Path) -> Iterator[str]:
    """The names of a state's arrays, as Orbax stores them."""
    for leaf in json.loads(metadata.read_text())["tree_metadata"].values():
        if leaf["value_metadata"]["value_type"] == "jax.Array":
            yield ".".join(str(key["key"]) for key in leaf["key_metadata"])


def _stored(state: pathlib.Path) -> set[str]:
    """The names of the arrays that have both metadata and values."""
    place = {"driver": "ocdbt", "base": buckets.store_of(state)}
    store: Any = tensorstore.KvStore.open(place).result()
    keys = (key.decode().rpartition("/") for key in store.list().result())
    described: set[str] = set()
    filled: set[str] = set()
    for name, _, part in keys:
        (described if part == ".zarray" else filled).add(name)
    return described & filled


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files below a folder, in order."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _digest(path: pathlib.Path) -> str | None:
    if buckets.in_bucket(path):
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
