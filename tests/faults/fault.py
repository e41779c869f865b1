"""What a fault is."""

from typing import NamedTuple


class Fault(NamedTuple):
    """One slip.

    Attributes:
        name: what goes wrong.
        file: where, below ``caco_jax``.
        old: the text there, which occurs once.
        new: what stands in its place.
        tests: files or tests below ``tests``, of which one must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def room(self) -> str:
        """The part of the library that it is in; of its own modules their names."""
        return self.file.partition("/")[0].removesuffix(".py")
