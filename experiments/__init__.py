"""Command-line programs for ``python -m``; see caco_jax.programs."""
