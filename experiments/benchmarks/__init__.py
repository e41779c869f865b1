"""Programs that measure, each with a table and a JSON file."""
