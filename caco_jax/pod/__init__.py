"""What a train step needs on a TPU slice that is not there: compiled and read."""
