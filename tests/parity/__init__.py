"""Parity with plain dbt: the same commands on two copies of a project, and every difference."""
