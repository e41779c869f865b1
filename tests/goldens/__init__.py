"""How each golden case is recomputed with this package.

One module a topic, each with a dictionary ``CASES``: the case's name -> a function of
(the case's arrays, the dtype to compute in) that returns every expected array by name.
``WANTED`` has functions of a case's arrays that return other arrays to compare
with, by the same names.
`tests/test_goldens.py` runs them all and compares.
"""
