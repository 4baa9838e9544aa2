"""dbt, in process and warm. The only room that imports dbt; it knows neither Redis nor Celery."""
