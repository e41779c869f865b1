"""Weights to and from other frameworks."""
