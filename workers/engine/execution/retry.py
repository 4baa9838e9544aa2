"""Plans ``dbt retry``: which nodes of an earlier run to repeat, with which arguments (dbt.task.retry.RetryTask).

``dbt retry`` reads run_results.json from a local folder. Here the earlier run's results come from the ledger, so any
worker can repeat any run, node by node.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from click.core import ParameterSource
from dbt.artifacts.schemas.batch_results import BatchResults
from dbt.artifacts.schemas.run import RunResultsArtifact
from dbt.cli.flags import Flags, command_params
from dbt.constants import RUN_RESULTS_FILE_NAME
from dbt.contracts.graph.nodes import ModelNode
from dbt.contracts.state import load_result_state
from dbt.graph import GraphQueue
from dbt.task import retry as dbt_retry
from dbt.task.run import RunTask

from workers.engine.interface import Retry

PreviousResults = Mapping[str, Any]
"""Content of an earlier run's run_results.json."""

_LEFT_OUT_WHEN_DEFAULT: dict[str, Any] = {
    "resource_types": [],
    "warn_error_options": {"warn": [], "error": [], "silence": []},
}


def previous_command(previous: PreviousResults) -> str:
    """The command of the earlier run: ``build``, ``generate``, …"""
    return str(previous.get("args", {}).get("which", ""))


def plan_retry(flags: Flags, previous: PreviousResults) -> tuple[Retry, frozenset[str]]:
    """Return the state of the earlier run that the retry needs, and the unique ids of the nodes to repeat.

    Args:
        flags: flags of the retry's own command line.
    """
    with state_folder(previous) as folder:
        results = load_result_state(Path(folder) / RUN_RESULTS_FILE_NAME)
    if results is None:
        raise RuntimeError("dbt cannot read the run results that were just written for it")
    return (
        Retry(
            given=dict(results.args),
            batches={
                each.unique_id: each.batch_results.to_dict()
                for each in results.results
                if each.batch_results is not None and each.batch_results.successful and each.batch_results.failed
            },
            started_at=(results.metadata.invocation_started_at or results.metadata.generated_at).isoformat(),
        ),
        _failed(results, flags),
    )  # fmt: skip


def arguments(click_context: Any, flags: Flags, retry: Retry) -> tuple[str, ...]:
    """The earlier command's arguments, with the overrides of the retry's own command line.

    Args:
        click_context, flags: of the retry's command line, parsed on this machine, because paths are local.
    """
    given = {
        name: value
        for name, value in retry.given.items()
        if name != "show"
        and name not in dbt_retry.IGNORE_PARENT_FLAGS
        and not (name in _LEFT_OUT_WHEN_DEFAULT and value == _LEFT_OUT_WHEN_DEFAULT[name])
    }
    for name, value in flags.__dict__.items():
        override = click_context.get_parameter_source(name) == ParameterSource.COMMANDLINE
        if name in dbt_retry.IGNORE_PARENT_FLAGS or (override and name in dbt_retry.ALLOW_CLI_OVERRIDE_FLAGS):
            given[name] = value
    command: Any = dbt_retry.CMD_DICT[str(given["which"])]
    return tuple(str(argument) for argument in command_params(command, given))


def _failed(results: RunResultsArtifact, flags: Flags) -> frozenset[str]:
    statuses = {str(status) for status in dbt_retry.RETRYABLE_STATUSES}
    if flags.WARN_ERROR:
        statuses.add("warn")
    return frozenset(
        each.unique_id
        for each in results.results
        if str(each.status) in statuses and not each.unique_id.startswith("operation.")
    )


def select_only(task: Any, nodes: frozenset[str]) -> None:
    """Make `task` select exactly these nodes, without the unit tests of selected models."""

    def get_graph_queue() -> GraphQueue:
        selected: Any = set(nodes)
        return GraphQueue(task.graph.get_subset_graph(nodes).graph, task.manifest, selected)

    task.get_graph_queue = get_graph_queue


def restore_batches(node: Any, retry: Retry | None) -> None:
    """Make a microbatch model repeat only the batches that failed in the earlier run."""
    if retry is not None and node.unique_id in retry.batches and isinstance(node, ModelNode):
        node.previous_batch_results = BatchResults.from_dict(retry.batches[node.unique_id])


def restore_start_time(task: Any, retry: Retry | None) -> None:
    """Compute batches up to the start time of the earlier run, as the earlier run did."""
    if retry is not None and isinstance(task, RunTask):
        task.original_invocation_started_at = datetime.fromisoformat(retry.started_at)


@contextlib.contextmanager
def state_folder(previous: PreviousResults) -> Iterator[str]:
    """Write the run results to a temporary folder, as ``dbt retry --state`` expects them."""
    with tempfile.TemporaryDirectory(prefix="dbt-relay-retry-") as folder:
        (Path(folder) / RUN_RESULTS_FILE_NAME).write_text(json.dumps(previous), encoding="utf-8")
        yield folder
