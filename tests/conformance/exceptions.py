"""Tests that plain dbt passes and dbt-relay cannot pass, with reasons. Bugs of dbt-relay do not belong here."""

from __future__ import annotations

EXCEPTIONS: dict[str, str] = {}
