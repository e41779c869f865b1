"""Recipes: one file each, with its differences from the method's defaults."""
