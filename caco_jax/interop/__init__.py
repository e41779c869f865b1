"""Weights to and from other frameworks: `torch_weights`, `workdirs`."""

# The parts of a run that a file of weights may have, by the names in flags. "bank" asks
# for whatever memory the method has, a bank or a queue.
BACKBONE, PROJECTOR, MEMORY, TWINS = PARTS = ("backbone", "projector", "bank", "twins")
