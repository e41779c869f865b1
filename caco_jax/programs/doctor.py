"""Checks an installation and lists what to fix: caco doctor.

It checks versions, devices, libtpu, the compilation cache and three training steps on
generated images. The exit status is 1 if anything is wrong.
"""

import importlib.metadata
import importlib.util
import logging
import os
import pathlib
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax

from caco_jax.config.build import pretrain
from caco_jax.programs.command import (
    aside,
    missing_devices,
    print_json,
    read_config,
)
from caco_jax.programs.flags import parser_of

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
EXTRAS = {
    "cv2": ("OpenCV", "reading image files", "pip install 'caco_jax[data]'"),
    "grain": ("Grain", "reading images ahead", "pip install 'caco_jax[data]'"),
    "pillow_heif": (
        "pillow-heif",
        "reading HEIC images",
        "pip install 'caco_jax[heif]'",
    ),
    "torch": ("torch", "weights from and to PyTorch", "pip install 'caco_jax[torch]'"),
    "tensorflow": (
        "tensorflow",
        "preparing TFDS sets",
        "make prepare, or pip install 'caco_jax[prepare]'",
    ),
    "libtpu": (
        "libtpu",
        "TPUs, and compiling for them",
        "make tpu, or pip install 'caco_jax[tpu]'",
    ),
}


class Unwell(Exception):
    """A fault of the installation, with its fix."""


def versions() -> str:
    """Versions of Python and of the main dependencies."""
    found = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return ", ".join([f"Python {platform.python_version()}", *found])


def devices() -> str:
    """The devices that JAX would run on.

    Raises:
        Unwell: JAX finds none, or a graphics card is there that it does not use.
    """
    missing = missing_devices()
    if missing is not None:
        raise Unwell(missing)
    found = jax.devices()
    kind = f"{len(found)} x {found[0].device_kind} ({found[0].platform})"
    wanted = os.environ.get("JAX_PLATFORMS")
    if not wanted and found[0].platform == "cpu" and os.path.exists("/dev/nvidia0"):
        raise Unwell(
            f"{kind}, but there is an NVIDIA GPU; pip install 'caco_jax[cuda]'"
        )
    return kind


def cache() -> str:
    """Directory of the compilation cache.

    Raises:
        Unwell: the directory is not writable.
    """
    wanted = os.environ["JAX_COMPILATION_CACHE_DIR"]
    if "://" in wanted:  # a bucket: JAX itself writes to it
        return f"compiled programs are kept in {wanted}, which was not tried"
    place = pathlib.Path(wanted)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place):
            return f"compiled programs are kept in {place}"
    except OSError as error:
        raise Unwell(
            f"compiled programs cannot be kept in {place}: {error.strerror}; name "
            "another directory in JAX_COMPILATION_CACHE_DIR"
        ) from None


def steps() -> str:
    """Three training steps of CaCo on generated images.

    Raises:
        Unwell: they fail.
    """
    if missing_devices() is not None:
        raise Unwell("three steps of training need a device, and JAX finds none")
    # The log of the run is not part of the check.
    logging.getLogger("caco_jax").setLevel(logging.WARNING)
    # Settings for so few images and steps; a run warns about others.
    config = read_config(
        "caco_digits:smoke", ["method.bank_size=16", "target.momentum=0.5"]
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            summary = pretrain(config, f"{folder}/run")
        except Exception as error:  # any exception is a finding to report
            reason = (str(error).splitlines() or [""])[0]
            raise Unwell(
                f"three steps of training fail: {type(error).__name__}: {reason}"
            ) from error
    return f"three steps of training in {summary['pretrain_seconds']:.1f} s"


def extras() -> Iterator[str]:
    """Optional packages that are not installed, and what needs them."""
    for module, (name, use, remedy) in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            yield f"{name} is not installed; only {use} needs it ({remedy})"


CHECKS: tuple[Callable[[], str], ...] = (versions, devices, cache, steps)


def examine() -> dict[str, Any]:
    """Runs the checks, each printed when it is done.

    Returns:
        "ok", "checks" with "check", "ok" and "text" of each, and "notes" on optional
        packages.
    """
    found: list[dict[str, Any]] = []
    for check in CHECKS:
        try:
            ok, text = True, check()
        except Unwell as error:
            ok, text = False, str(error)
        print(f"{'ok ' if ok else 'FIX'}   {text}", flush=True)
        found.append({"check": check.__name__, "ok": ok, "text": text})
    notes = list(extras())
    for line in notes:
        print(f"note  {line}")
    well = all(row["ok"] for row in found)
    if well:
        print("All is well.")
    return {"ok": well, "checks": found, "notes": notes}


def main() -> None:
    """Prints a line for each check."""
    flags = parser_of("doctor").parse_args()
    with aside(flags):
        result = examine()
    print_json(flags, result)
    if not result["ok"]:
        sys.exit(1)
