"""The ``dbt-relay`` command line. Only ``producer.__main__`` imports it."""
