"""Notebooks, each built from a script by `build`."""
