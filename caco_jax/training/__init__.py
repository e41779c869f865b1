"""One train state, one step, one loop for every method."""
