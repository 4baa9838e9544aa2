"""Servers, workers and projects that tests are made of. Fixtures for them stand in tests/conftest.py."""
