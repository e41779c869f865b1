"""Command-line programs: parse flags, call caco_jax, print and save."""
