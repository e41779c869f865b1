"""Optional packages: imported on use, with a one-line message if they are missing."""

import importlib
import importlib.util
from typing import Any

from caco_jax.schema import UserError

# Module -> (package, our extra that installs it).
_PACKAGES = {
    "cv2": ("opencv-python-headless", "data"),
    "gcsfs": ("gcsfs", "gcs"),
    "grain": ("grain", "data"),
    "pillow_heif": ("pillow-heif", "heif"),
    "safetensors": ("safetensors", "torch"),
    "tensorflow": ("tensorflow-cpu", "prepare"),
    "torch": ("torch", "torch"),
    "wandb": ("wandb", "wandb"),
}


def require_package(module: str, *, purpose: str) -> Any:
    """Imports a module of an optional package.

    Args:
        module: such as "cv2", or a part of it, such as "safetensors.numpy".
        purpose: what needs the module, the start of the message: a flag, or words.

    Raises:
        UserError: the package is not installed; the message names the extra.
    """
    top = module.partition(".")[0]
    package, _ = _PACKAGES[top]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (top, module):
            raise  # it is installed, and one of its own imports is missing
        raise UserError(
            f"{purpose}: expected the package {package}, which is not installed; "
            f"{install_hint(top)}"
        ) from None


def is_installed(module: str) -> bool:
    """Whether a module is installed; it is not imported."""
    return importlib.util.find_spec(module) is not None


def install_hint(module: str) -> str:
    """The command that installs a module's extra."""
    return f"pip install 'caco_jax[{_PACKAGES[module][1]}]'"
