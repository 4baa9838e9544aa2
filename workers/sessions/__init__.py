"""Warehouses that one process at a time may use: who has them, who waits, who still holds a file."""
