"""dbt's events, the console and the log file of a step."""
