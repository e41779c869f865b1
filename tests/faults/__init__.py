"""Faults that the suite must catch: what `tests.seeded_faults` puts into a copy.

Each is a slip that a person could make and that would train on without a word. Their
tests are the narrowest of `make test` that ought to see it.
"""

from tests.faults import around, trained
from tests.faults.fault import Fault

FAULTS: list[Fault] = [*trained.FAULTS, *around.FAULTS]
__all__ = ["FAULTS", "Fault"]
