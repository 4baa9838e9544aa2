"""Keeps workers and their processes in order: leases, time limits, dead processes, drain."""
