"""dbt's command line, read without dbt."""
