"""Executes the steps of a run with dbt: plan, start, node, close, whole commands."""
