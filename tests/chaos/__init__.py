"""Real runs under random faults: every run must end with the results of an undisturbed run (docs/chaos.md)."""
