"""The parts of a run that files of weights may have, by the names in flags."""

BACKBONE, PROJECTOR, BANK, TWINS = PARTS = ("backbone", "projector", "bank", "twins")
