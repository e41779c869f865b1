"""A pretraining run from its parts to its files: fit, resume, read back."""
