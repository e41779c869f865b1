"""Parsing of paths: with ~, as file:// or gs://, and refusal of other machines."""

import os
import pathlib
import re
from urllib.parse import unquote

# What pathlib makes of gs://bucket/run is gs:/bucket/run, in the current directory.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//|/(?!/))")
# These have one slash where pathlib took the other.
_KNOWN = {"abfs", "abfss", "az", "dbfs", "file", "ftp", "gcs", "gs", "hdfs", "hf"}
_KNOWN |= {"http", "https", "memory", "oci", "r2", "s3", "s3a", "sftp", "ssh", "wasb"}


def bucket_address(path: str | os.PathLike[str]) -> str | None:
    """The address gs://BUCKET/DIRECTORY of a path, or None for a path of no bucket.

    Args:
        path: a path; pathlib may have taken one of its slashes.

    Raises:
        ValueError: the directory or the bucket is missing.
    """
    text = os.fspath(path)
    found = re.match(r"gs:/+", text, re.IGNORECASE)
    if found is None:
        return None
    bucket, _, below = text[found.end() :].strip("/").partition("/")
    if not bucket or not below:
        raise ValueError(f"expected gs://BUCKET/DIRECTORY, got {text}")
    return f"gs://{bucket}/{below}"


def local_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """A path on a file system of this machine, mounted ones included.

    Args:
        path: a path, in which a leading ~ is the user's home; or file:///PATH, with
            escapes such as %20.

    Returns:
        The path, absolute only if it was.

    Raises:
        ValueError: it is of a bucket or another machine; the message has no key.
    """
    text = os.fspath(path)
    found = _SCHEME.match(text)
    if found and (found[2] == "//" or found[1].lower() in _KNOWN):
        scheme, rest = found[1].lower(), text[found.end() :]
        if scheme != "file":
            raise ValueError(
                f"expected a path of this machine, got {text}: {scheme}:// cannot be "
                "read or written here; mount it or copy it, and name that folder"
            )
        if found[2] == "/":
            rest = f"/{rest}"
        host, slash, below = rest.partition("/")
        if not slash or host not in ("", "localhost"):
            raise ValueError(f"expected file:///PATH, got {text}")
        text = f"/{unquote(below)}"
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:  # there is no such user: it is a name like any other
        return pathlib.Path(text)
