"""Programs that commands start: Celery's, and what must be installed for them."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from producer.usage_errors import usage_error

PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": True}
"""Settings of a click command that passes options on to Celery."""


def become_celery(words: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Replace this process by a Celery command, so that signals reach Celery itself."""
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "celery", "-A", "workers.app", *words], environ)  # noqa: S606


def is_given(words: Sequence[str], *names: str) -> bool:
    """Whether one of these options is among the words."""
    return any(word == name or word.startswith(f"{name}=") for word in words for name in names)


def require(module: str, what: str, requirement: str) -> None:
    """Raise DbtUsageError unless a module is installed.

    Args:
        what: what the user knows it as.
        requirement: what to install.
    """
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise usage_error(
            "not_installed",
            f"This needs {what}, which is not installed here.",
            f'pip install "{requirement}"',
        )
