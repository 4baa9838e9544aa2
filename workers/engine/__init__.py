"""dbt, in process and warm. The only room that imports dbt; it knows neither Redis nor Celery."""

from workers.engine import locks  # noqa: F401 - before anything of dbt
