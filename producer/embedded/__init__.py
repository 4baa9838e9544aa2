"""The embedded stack: a private Redis-compatible server and workers, for callers without a broker."""
