"""Servers, workers and projects for tests. Their fixtures are in tests/conftest.py."""
