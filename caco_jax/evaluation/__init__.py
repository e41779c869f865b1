"""Evaluation of frozen features.

`features` takes them from a network; `knn`, `linear` and `few_shot` judge them, one
protocol a file; `summary` puts the three into one table.
"""
