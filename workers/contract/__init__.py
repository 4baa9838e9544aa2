"""What travels between producers and workers.

Imports nothing else of dbt-relay, and no dbt: both sides and every tool may import it.
"""
