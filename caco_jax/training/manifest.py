"""What a checkpoint's files hold, written down before it counts: damage shows later."""

import hashlib
import json
import pathlib

NAME = "manifest.json"
# Orbax writes these last, after the manifest; nothing in them is needed to restore.
_AFTERWARDS = {"_CHECKPOINT_METADATA", "commit_success.txt"}


def write_manifest(folder: pathlib.Path) -> None:
    """Writes the digests of all files of a checkpoint that is otherwise complete."""
    entries = json.dumps(
        {
            str(path.relative_to(folder)): [path.stat().st_size, _digest(path)]
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in _AFTERWARDS
        }
    )
    digest = hashlib.sha256(entries.encode()).hexdigest()
    (folder / NAME).write_text(f"{digest}\n{entries}\n")


def find_damage(folder: pathlib.Path) -> str | None:
    """What is wrong with a checkpoint, or None.

    Every file is read.

    Args:
        folder: of one checkpoint.
    """
    try:
        digest, _, entries = (folder / NAME).read_text().partition("\n")
    except (OSError, UnicodeDecodeError):
        return f"{NAME} cannot be read"
    entries = entries.removesuffix("\n")
    if hashlib.sha256(entries.encode()).hexdigest() != digest:
        return f"{NAME} is not what was written"
    for name, (size, expected) in json.loads(entries).items():
        path = folder / name
        try:
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes of {size}"
            if _digest(path) != expected:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    # Orbax overlooks a checkpoint without this one.
    if not (folder / "commit_success.txt").is_file():
        return "commit_success.txt cannot be read"
    return None


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
