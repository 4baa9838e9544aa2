"""Shows runs on a terminal."""
