"""Celery app of a worker that reports another release of dbt: ``TEST_DBT_RELEASE``."""

from __future__ import annotations

import os

import dbt.version

from workers.app import app

__all__ = ["app"]

dbt.version.__version__ = os.environ["TEST_DBT_RELEASE"]
