"""Parsed projects: kept warm, keyed by all that a parse reads, parsed again in part."""
