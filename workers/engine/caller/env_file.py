"""The ``.env`` file of the caller's working directory, as dbt-core 1.12 and later reads it (dbt.cli.main).

dbt reads the nearest ``.env`` of its working directory and the folders above it when its command line is imported.
In a worker that would be a file of the worker's folder, for every run. So the import leaves the environment as it
was, and each step reads the file of its caller.

Imported before any other module of dbt but `locks`.
"""

from __future__ import annotations

import os
from typing import Any

_before = frozenset(os.environ)

import dbt.cli.main  # noqa: E402 - the environment is noted first

_cli: Any = dbt.cli.main

for _name in os.environ.keys() - _before:
    del os.environ[_name]


def load_env_file() -> bool:
    """Add the variables of the nearest ``.env`` that the environment of this process does not have.

    Returns:
        Whether there are any. False with releases of dbt that read no such file.

    Raises:
        OSError: the file cannot be read, or is not text in UTF-8.
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
