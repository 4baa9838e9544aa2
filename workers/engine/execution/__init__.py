"""Executes the steps of a run with dbt: plan, start, nodes, close, whole commands."""
