"""Benchmarks: each one prints a table and writes a JSON file."""
