"""Prepares a process for dbt. A worker calls `prepare` when it starts, before it imports its tasks and with them dbt."""

from __future__ import annotations

from importlib.util import find_spec

from workers.engine import self_check
from workers.engine.caller.env_file import EnvFileReadError
from workers.engine.patches import registry
from workers.engine.patches.catalog import AT_START, BEFORE_DBT


class UnsupportedDbtError(Exception):
    """The installed dbt cannot be executed. The text says what is missing and what to do."""


def prepare_import() -> None:
    """Do what has to precede the import of dbt: thread locks, and no ``.env`` file of this process's folder.

    Raises:
        UnsupportedDbtError: dbt was imported before, and has read a ``.env`` file.
    """
    try:
        registry.install_needed(BEFORE_DBT)
    except EnvFileReadError as error:
        raise UnsupportedDbtError(f"dbt-relay: {error}") from error
    except (ImportError, AttributeError) as error:
        raise UnsupportedDbtError(self_check.refusal(str(error))) from error


def prepare(patches: str = "") -> None:
    """Import dbt, check that the engine can drive it, and replace the functions of `patches.catalog`.

    Does nothing where dbt is not installed. May be called more than once.

    Args:
        patches: which patches to leave out (``DBT_RELAY_PATCHES``, see `registry.apply`).

    Raises:
        UnsupportedDbtError: the engine cannot drive the installed dbt.
        DbtUsageError: `patches` names a patch that does not exist.
    """
    if find_spec("dbt") is None:
        return
    prepare_import()
    text = self_check.complaint()
    if text is not None:
        raise UnsupportedDbtError(text)
    # imported here: only now is it known that it can be
    from workers.engine.caller.invocation import inherit_help_names
    from workers.engine.template_state.state import GraphUse

    inherit_help_names()
    registry.install_needed(AT_START)
    registry.apply(patches)
    GraphUse.noted = registry.enabled("contexts")
