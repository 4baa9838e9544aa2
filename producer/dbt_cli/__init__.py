"""Parses dbt's command line without dbt."""
