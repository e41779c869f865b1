"""Recipes: one file each, stating its difference from the method's defaults."""
