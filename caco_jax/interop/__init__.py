"""Weights to and from other frameworks."""

from caco_jax.interop.torch_weights import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]
