"""What stands in for `dbtRunner` in `dbt.tests.util`: plain dbt, or the same command through dbt-relay."""

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
    """Live workers: their broker, and the file of the clock that they go by."""

    broker_url: str
    clock: Path


class ConformanceRunner:
    """Called as dbt's runner is. `relay` decides the side; None is plain dbt in this process."""

    relay: ClassVar[Relay | None] = None

    def __init__(self, manifest: Any = None, callbacks: Sequence[Any] | None = None) -> None:
        self._manifest = manifest
        self._callbacks = list(callbacks or [])

    def invoke(self, args: list[str], **kwargs: Any) -> dbtRunnerResult:
        """Run a command; exceptions are returned, as dbt's runner does it."""
        if self.relay is None:
            return dbtRunner(self._manifest, self._callbacks).invoke(args, **kwargs)
        words = [str(each) for each in args]
        # callbacks want dbt's event objects: they travel as dbt's own JSON lines
        asked = [*words, "--log-format", "json"] if self._callbacks else words
        release_warehouse()
        set_clock(self.relay.clock)
        try:
            result = DbtRunner(Path.cwd(), threads=None, broker_url=self.relay.broker_url).execute_command(
                asked, on_line=self._hear_event if self._callbacks else _say
            )
        except DbtUsageError as error:
            return dbtRunnerResult(success=False, exception=DbtUsageException(str(error)))
        adopt_cache(Ledger(connect(self.relay.broker_url)), result.run_id)
        return _as_dbt(words, result)

    def _hear_event(self, line: str) -> None:
        try:
            event = rebuilt.event(json.loads(line))
        except (ValueError, KeyError):
            _say(line)
            return
        for callback in self._callbacks:
            callback(event)
        _say(event.info.msg)


def release_warehouse() -> None:
    """Close what this process holds of a DuckDB file, and forget what it knew of the relations in it.

    A dbt command of this process would have registered a new adapter.
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
    """Leave this process's adapter as a dbt command leaves it: with the relations that the run knew of.

    They come from the ledger, where the run's processes told them to each other. The adapter has a
    connection too: dbt's command leaves its own.
    """
    changes = ledger.cache_changes(run_id, 0)
    for adapter in FACTORY.adapters.values():
        recorder = CacheRecorder(adapter)
        recorder.use()
        recorder.replay(changes)
        adapter.acquire_connection("master")


def _say(line: str) -> None:
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
