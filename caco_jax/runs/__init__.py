"""Pretraining runs: their parts, training, checkpoints, resuming, reading back."""
