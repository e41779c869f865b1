"""Looking at what a run learned."""
