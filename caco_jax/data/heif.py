"""Reading HEIC and AVIF images with Pillow and its optional plug-in.

Most builds of Pillow read AVIF; HEIC needs the plug-in pillow-heif, an extra.
"""

import functools
from collections.abc import Container

from caco_jax._extras import install_hint, is_installed

HEIC_SUFFIXES, AVIF_SUFFIXES = (".heic", ".heif", ".hif"), (".avif",)
SUFFIXES = (*HEIC_SUFFIXES, *AVIF_SUFFIXES)
# Brands in the content of a file -> suffix.
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}


def remedy(suffix: str) -> str | None:
    """Advice to be able to read files of a suffix; None if they can be read."""
    if suffix in HEIC_SUFFIXES and not is_installed("pillow_heif"):
        return install_hint("pillow_heif")
    if suffix in AVIF_SUFFIXES and not _reads_avif():
        return "pip install --upgrade pillow"
    return None


def remedies(suffixes: Container[str]) -> list[str]:
    """Advice to be able to read files of these suffixes, without repetition."""
    known = [suffix for suffix in SUFFIXES if suffix in suffixes]
    return list(dict.fromkeys(filter(None, map(remedy, known))))


def prepare(encoded: bytes) -> None:
    """Registers the plug-in with Pillow before a file that needs it is opened."""
    if _suffix(encoded) in HEIC_SUFFIXES and is_installed("pillow_heif"):
        _register()


def why_unknown(encoded: bytes) -> str:
    """The reason why Pillow cannot identify a file."""
    suffix = _suffix(encoded)
    if suffix is None:
        return "no image in a known format"
    missing = remedy(suffix)
    if missing is None:
        return "truncated or damaged"
    return f"an image as {suffix}, which is read after {missing}"


@functools.cache
def _register() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


@functools.cache
def _reads_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))


def _suffix(encoded: bytes) -> str | None:
    """The suffix for the content of a file, if it is HEIC or AVIF."""
    if encoded[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(encoded[:4]), 256)
    brands = {encoded[at : at + 4] for at in (8, *range(16, end, 4))}
    if brands & _AVIF_BRANDS:  # a general brand may come first
        return AVIF_SUFFIXES[0]
    return HEIC_SUFFIXES[0] if brands & _HEIC_BRANDS else None
