"""Gives a worker process the environment and process attributes of a run's caller."""
