"""The train state, the training step and the training loop of all methods."""
