"""Supervision of workers and their pool processes: leases, time limits, lost processes, drain, memory, messages."""
