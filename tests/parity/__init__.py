"""Parity with plain dbt: runs the same commands on two copies of a project and compares everything."""
