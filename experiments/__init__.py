"""Command-line programs, as ``python -m experiments.NAME``; see caco_jax.programs."""
