"""dbt, in process and warm. Only this package imports dbt; it imports neither Redis nor Celery.

A process that is going to execute dbt calls `startup.prepare` before it imports anything else of this package.
"""
