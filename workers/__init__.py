"""The worker side of dbt-relay: dbt nodes executed as Celery tasks in warm, in-process dbt."""
