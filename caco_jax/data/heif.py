"""HEIC and AVIF, as phones and browsers write them: what reads them, if it is there.

Pillow reads AVIF itself, in most of its builds, and HEIC by a plug-in that is an extra.
"""

import functools
from collections.abc import Container

from caco_jax._extras import install_hint, is_installed

HEIC_SUFFIXES, AVIF_SUFFIXES = (".heic", ".heif", ".hif"), (".avif",)
SUFFIXES = (*HEIC_SUFFIXES, *AVIF_SUFFIXES)
# What the content of a file says of itself, whatever its name.
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}


def remedy(suffix: str) -> str | None:
    """What to do to read files of a suffix; None where they can be read."""
    if suffix in HEIC_SUFFIXES and not is_installed("pillow_heif"):
        return install_hint("pillow_heif")
    if suffix in AVIF_SUFFIXES and not _reads_avif():
        return "pip install --upgrade pillow"
    return None


def remedies(suffixes: Container[str]) -> list[str]:
    """What to do to read files of all these suffixes, each thing once."""
    known = [suffix for suffix in SUFFIXES if suffix in suffixes]
    return list(dict.fromkeys(filter(None, map(remedy, known))))


def prepare(encoded: bytes) -> None:
    """Makes Pillow know the plug-in, before it opens a file that needs it."""
    if _suffix(encoded) in HEIC_SUFFIXES and is_installed("pillow_heif"):
        _register()


def why_unknown(encoded: bytes) -> str:
    """Why Pillow knows nothing of a file."""
    suffix = _suffix(encoded)
    if suffix is None:
        return "no image in a format that is known"
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
    """The suffix that belongs to a content, of those that are known here."""
    if encoded[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(encoded[:4]), 256)
    brands = {encoded[at : at + 4] for at in (8, *range(16, end, 4))}
    if brands & _AVIF_BRANDS:  # beside which a general one may come first
        return AVIF_SUFFIXES[0]
    return HEIC_SUFFIXES[0] if brands & _HEIC_BRANDS else None
