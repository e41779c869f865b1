"""Optimisers and schedules, from optax's parts."""
