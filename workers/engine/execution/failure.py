"""Classifies failures of nodes and commands: collects from dbt what `contract.errors.classify` needs."""

from __future__ import annotations

from typing import Any

import click
from dbt.cli.exceptions import DbtUsageException

from workers.contract.errors import ErrorInfo
from workers.contract.errors.classify import Failure, classify
from workers.engine.execution.run_state import RunState
from workers.engine.output.masking import known_secrets


def exception_names(error: BaseException | None) -> tuple[str, ...]:
    """Class names of an exception and its bases, then those of its causes."""
    names: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        names.extend(
            cls.__name__ for cls in type(error).__mro__ if cls not in (object, BaseException, Exception)
        )
        error = error.__cause__ or error.__context__
    return tuple(names)


def classify_node(
    run: RunState, node: Any, status: str, message: str, failures: int | None, error: BaseException | None
) -> ErrorInfo:
    """Classify the error of a failed node.

    Args:
        status, message, failures: of dbt's result.
        error: the exception behind the result, if known.
    """
    config = getattr(node, "config", None)
    return classify(
        Failure(
            message=message,
            exceptions=exception_names(error),
            status=status,
            command=str(run.flags.WHICH),
            adapter=run.config.credentials.type,
            node=node.unique_id,
            resource_type=str(node.resource_type),
            materialized=str(getattr(config, "materialized", "") or ""),
            language=str(getattr(node, "language", "sql") or "sql"),
            file=getattr(node, "original_file_path", None),
            raw_code=getattr(node, "raw_code", None),
            compiled_code=getattr(node, "compiled_code", None),
            failures=failures,
            target=run.config.project_target_path,
            known_names=known_names(run),
            secrets=known_secrets(),
        )
    )


def classify_command(
    error: BaseException, command: str, *, adapter: str = "", known: tuple[str, ...] = ()
) -> ErrorInfo:
    """Classify the error that ended a command."""
    if isinstance(error, click.UsageError):  # as dbt.cli.main.dbtRunner.invoke converts it
        error = DbtUsageException(error.format_message())
    return classify(
        Failure(
            message=str(error) or type(error).__name__,
            exceptions=exception_names(error),
            status="error",
            command=command,
            adapter=adapter,
            known_names=known,
            secrets=known_secrets(),
        )
    )


def known_names(run: RunState) -> tuple[str, ...]:
    """Unique ids of models, seeds, snapshots and sources: candidates for a misspelt reference."""
    nodes = (
        unique_id
        for unique_id, node in run.manifest.nodes.items()
        if str(node.resource_type) in {"model", "seed", "snapshot"}
    )
    return (*nodes, *run.manifest.sources)
