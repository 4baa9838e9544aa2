"""Compares dbt-relay with plain dbt: runs the same commands on two copies and reports every difference.

`pair` runs and compares a command; `rules` normalizes values that differ between any two runs.
"""
