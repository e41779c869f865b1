"""Import and export of weights of other frameworks: `torch_weights`, `workdirs`."""

# Parts of a run that a file of weights may have, by the names in flags. "bank" is the
# memory of the method, a bank or a queue.
BACKBONE, PROJECTOR, MEMORY, TWINS = PARTS = ("backbone", "projector", "bank", "twins")
