"""Tests that plain dbt passes and the relay cannot, and why. Nothing of the product may hide here."""

from __future__ import annotations

EXCEPTIONS: dict[str, str] = {}
