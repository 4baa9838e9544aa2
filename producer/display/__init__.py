"""Shows runs and their results on a terminal."""
