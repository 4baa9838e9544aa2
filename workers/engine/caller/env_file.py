"""Loads the ``.env`` file of the caller's working directory, as dbt-core 1.12 and later does (dbt.cli.main).

dbt loads the nearest ``.env`` (working directory or a parent folder) when its command line is imported. In a worker
that would be the worker's own file, for every run. So `import_dbt` imports dbt's command line and restores the
environment; each step then loads its caller's file.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

_COMMAND_LINE = "dbt.cli.main"


_imported_here = False
"""Whether `import_dbt` imported the command line."""


class EnvFileReadError(Exception):
    """dbt has loaded a ``.env`` file of this process's working directory."""


def import_dbt() -> None:
    """Import dbt's command line, without the variables of a ``.env`` file.

    Raises:
        EnvFileReadError: the command line was imported before, and has loaded a ``.env`` file.
    """
    global _imported_here  # noqa: PLW0603 - the environment belongs to the process, too
    if _COMMAND_LINE in sys.modules:
        cli: Any = sys.modules[_COMMAND_LINE]
        path = cli.find_dotenv(usecwd=True) if hasattr(cli, "find_dotenv") else ""
        if path and not _imported_here:
            raise EnvFileReadError(
                f"dbt was imported before the worker was prepared, and has read {path}, "
                "whose variables would reach every run"
            )
        return
    before = frozenset(os.environ)
    importlib.import_module(_COMMAND_LINE)
    for name in os.environ.keys() - before:
        del os.environ[name]
    _imported_here = True


def load_env_file() -> bool:
    """Add the variables of the nearest ``.env`` to `os.environ`; variables that are set keep their value.

    Returns:
        Whether any variable was added. False for dbt before 1.12, which loads no such file.

    Raises:
        OSError: the file cannot be read, or is not UTF-8.
    """
    cli: Any = importlib.import_module(_COMMAND_LINE)
    if not hasattr(cli, "load_dotenv"):
        return False
    before = frozenset(os.environ)
    path = cli.find_dotenv(usecwd=True)
    try:
        cli.load_dotenv(path, override=False)
    except UnicodeDecodeError as error:
        raise OSError(f"{path} is not text in UTF-8: {error}") from error
    return os.environ.keys() != before
