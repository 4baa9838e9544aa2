"""Accepted differences: tests that plain dbt passes and dbt-relay fails by design. A bug of dbt-relay is not one."""

from __future__ import annotations

EXCEPTIONS: dict[str, str] = {}
"""``Class::test``, or the class alone → the reason. Empty: there is no such difference."""
