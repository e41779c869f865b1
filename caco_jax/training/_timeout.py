"""How long processes wait for each other."""

TIMEOUT_SECONDS = 300
