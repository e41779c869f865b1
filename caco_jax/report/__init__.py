"""One HTML page about a run, to open from disk: gathered, then rendered."""
