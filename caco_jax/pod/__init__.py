"""Memory, time and traffic of a step on a TPU slice, predicted without a TPU."""
