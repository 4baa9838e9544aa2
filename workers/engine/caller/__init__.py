"""Gives a worker process the attributes of the process that called dbt."""
