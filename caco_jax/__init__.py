"""Contrastive pretraining as a game between players, in JAX."""

__version__ = "0.1.0"
