"""Output of a step: dbt's events, stdout and stderr, log file records, and masking of credentials."""
