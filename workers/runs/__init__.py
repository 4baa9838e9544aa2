"""What a worker does for a run: its steps, its retries, its end."""
