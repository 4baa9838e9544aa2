"""Follows a submitted run until its result is available."""
