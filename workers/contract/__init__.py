"""What producers and workers share: messages, events, results, Redis keys, settings and errors.

Imports neither dbt, nor Celery, nor any other package of dbt-relay.
"""
