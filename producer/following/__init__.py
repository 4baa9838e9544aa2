"""Follows a run that was submitted, until its result is there."""
