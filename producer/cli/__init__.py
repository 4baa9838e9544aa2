"""The ``dbt-relay`` command: one file for each command."""
