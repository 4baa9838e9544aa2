"""The state of runs in Redis: one Lua script for each state change."""
