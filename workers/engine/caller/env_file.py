"""Loads the ``.env`` file of the caller's working directory, as dbt-core 1.12 and later does (dbt.cli.main).

dbt loads the nearest ``.env`` (working directory or a parent folder) when its command line is imported. In a worker
that would be the worker's own file, for every run. So this module imports dbt's command line and restores the
environment; each step then loads its caller's file.

Must be imported before any other module of dbt, except `thread_locks`.
"""

from __future__ import annotations

import os
from typing import Any

_before = frozenset(os.environ)

import dbt.cli.main  # noqa: E402 - after the environment was recorded

_cli: Any = dbt.cli.main

for _name in os.environ.keys() - _before:
    del os.environ[_name]


def load_env_file() -> bool:
    """Add the variables of the nearest ``.env`` to `os.environ`; variables that are set keep their value.

    Returns:
        Whether any variable was added. False for dbt before 1.12, which loads no such file.

    Raises:
        OSError: the file cannot be read, or is not UTF-8.
    """
    if not hasattr(_cli, "load_dotenv"):
        return False
    before = frozenset(os.environ)
    path = _cli.find_dotenv(usecwd=True)
    try:
        _cli.load_dotenv(path, override=False)
    except UnicodeDecodeError as error:
        raise OSError(f"{path} is not text in UTF-8: {error}") from error
    return os.environ.keys() != before
