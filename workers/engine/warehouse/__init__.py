"""Warehouse access: concurrency, connections, and fencing of executions that lost their lease."""
