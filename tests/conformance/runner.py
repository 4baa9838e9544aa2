"""Replaces `dbtRunner` in `dbt.tests.util`: runs commands with plain dbt or through dbt-relay."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from dbt.adapters.factory import FACTORY
from dbt.cli.exceptions import DbtUsageException
from dbt.cli.main import dbtRunner, dbtRunnerResult
from dbt_common.events.functions import get_capture_stream

from producer.dbt_cli.arguments import parse_invocation
from producer.dbt_cli.project import target_path
from producer.runner import DbtRunner
from tests.conformance import rebuilt
from tests.conformance.clock import set_clock
from workers.contract.connection import connect
from workers.contract.errors import DbtUsageError
from workers.contract.results import DbtResult
from workers.engine.execution.relation_cache import CacheRecorder
from workers.ledger.ledger import Ledger

_LOG_LINE = re.compile(r"(\x1b\[\d+m)*\d\d:\d\d:\d\d ")
_NO_RESULT = frozenset({"clean", "deps", "init"})


class Relay(NamedTuple):
    """Live workers: their broker, and the file that sets their time (`clock`)."""

    broker_url: str
    clock: Path


class ConformanceRunner:
    """Has the interface of dbt's runner. `relay`: the workers to use; None: plain dbt in this process."""

    relay: ClassVar[Relay | None] = None

    def __init__(self, manifest: Any = None, callbacks: Sequence[Any] | None = None) -> None:
        self._manifest = manifest
        self._callbacks = list(callbacks or [])

    def invoke(self, args: list[str], **kwargs: Any) -> dbtRunnerResult:
        """Run a command; exceptions are returned, as dbt's runner does it."""
        if self.relay is None:
            return dbtRunner(self._manifest, self._callbacks).invoke(args, **kwargs)
        words = [str(each) for each in args]
        # callbacks need dbt's event objects, which are rebuilt from JSON lines
        dbt_args = [*words, "--log-format", "json"] if self._callbacks else words
        release_warehouse()
        set_clock(self.relay.clock)
        try:
            result = DbtRunner(Path.cwd(), threads=None, broker_url=self.relay.broker_url).execute_command(
                dbt_args, on_line=self._on_json_line if self._callbacks else _print_line
            )
        except DbtUsageError as error:
            return dbtRunnerResult(success=False, exception=DbtUsageException(str(error)))
        adopt_cache(Ledger(connect(self.relay.broker_url)), result.run_id)
        return _as_dbt(words, result)

    def _on_json_line(self, line: str) -> None:
        try:
            event = rebuilt.event(json.loads(line))
        except (ValueError, KeyError):
            _print_line(line)
            return
        for callback in self._callbacks:
            callback(event)
        _print_line(event.info.msg)


def release_warehouse() -> None:
    """Close this process' connections to a DuckDB file and clear its relation cache.

    Plain dbt does so with each command, because it registers a new adapter.
    """
    for adapter in FACTORY.adapters.values():
        adapter.cleanup_connections()
        adapter.cache.clear()
        manager: Any = type(adapter.connections)
        environment = getattr(manager, "_ENV", None)
        if environment is not None:
            environment.close()
            manager._ENV = None


def adopt_cache(ledger: Ledger, run_id: str) -> None:
    """Fill this process' adapter with the run's relation cache and open a connection, as a dbt command leaves it.

    The relations come from the ledger, through which the run's processes share them.
    """
    changes = ledger.cache_changes(run_id, 0)
    for adapter in FACTORY.adapters.values():
        recorder = CacheRecorder(adapter)
        recorder.use()
        recorder.replay(changes)
        adapter.acquire_connection("master")


def _print_line(line: str) -> None:
    print(line, file=get_capture_stream() or sys.stdout)


def _as_dbt(words: list[str], result: DbtResult) -> dbtRunnerResult:
    invocation = parse_invocation(words, environ=os.environ, cwd=Path.cwd())
    target = target_path(invocation, Path.cwd(), os.environ)
    if result.return_code == 2 and result.error is not None:
        return dbtRunnerResult(success=False, exception=rebuilt.exception(result.error))
    return dbtRunnerResult(success=result.success, result=_value(invocation.command, result, target))


def _value(command: str, result: DbtResult, target: Path) -> Any:
    if command in _NO_RESULT:
        return None
    if command == "debug":
        return result.success
    if command in {"ls", "list"}:
        return [line for line in result.stdout.splitlines() if not _LOG_LINE.match(line)]
    if command == "docs generate":
        return rebuilt.catalog(target)
    known = rebuilt.manifest(target)
    if known is not None:
        for adapter in FACTORY.adapters.values():
            adapter.set_macro_resolver(known)
    if command == "parse":
        return known
    results = rebuilt.execution_result(result, known)
    if command == "show" and len(results.results) == 1:
        results.results[0].agate_table = rebuilt.printed_table(result.stdout)
    return results
