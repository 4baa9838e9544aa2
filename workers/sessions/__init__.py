"""Sessions: locks on the files of warehouses that one process at a time may open."""
