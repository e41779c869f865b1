"""Methods: each is data, a NamedTuple of pure functions."""
