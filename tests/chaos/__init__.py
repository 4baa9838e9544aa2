"""Real runs under random faults: every trial ends, and ends as if nothing had happened (docs/chaos.md)."""
