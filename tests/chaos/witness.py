"""Workers that write a journal of what they execute: ``celery -A tests.chaos.witness worker``.

The journal is independent of the ledger. Each process appends to its own file when it claims a step, when it starts and
ends it, and before and after each statement that it sends to the warehouse. A line is one write, so that it survives
the death of the process.
"""

from __future__ import annotations

import functools
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.journal import JOURNAL
from workers.app import app
from workers.engine.startup import prepare_import
from workers.ledger.ledger import Ledger

prepare_import()

from dbt.adapters.sql.connections import SQLConnectionManager  # noqa: E402 - once the process is prepared

from workers.engine.engine import Engine  # noqa: E402

__all__ = ["app"]

_COMMENTS = re.compile(r"\A(?:\s|/\*.*?\*/|--[^\n]*\n)*", re.DOTALL)
_READS = frozenset({"select", "with", "show", "pragma", "begin", "rollback", "from", ""})

_files: dict[int, int] = {}
_now: dict[str, Any] = {}
"""The step that this process executes."""


def _note(what: str, **more: Any) -> None:
    pid = os.getpid()
    if pid not in _files:
        path = Path(os.environ[JOURNAL]) / f"{pid}.jsonl"
        _files[pid] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    entry = {"at": time.time(), "pid": pid, "what": what, **_now, **more}
    os.write(_files[pid], json.dumps(entry).encode() + b"\n")


def _watch_claims() -> None:
    original = Ledger.claim

    @functools.wraps(original)
    def watched(self: Ledger, run_id: str, *args: Any, **options: Any) -> Any:
        _note("asks", run=run_id)
        return original(self, run_id, *args, **options)

    Ledger.claim = watched  # type: ignore[method-assign]


def _watch_step(name: str, step_of: Callable[..., str]) -> None:
    original = getattr(Engine, name)

    @functools.wraps(original)
    def watched(self: Engine, spec: Any, *args: Any, **options: Any) -> Any:
        _now.update(run=spec.run_id, step=step_of(*args), attempt=options.get("attempt", 1))
        _note("enter")
        how = "ok"
        try:
            return original(self, spec, *args, **options)
        except BaseException as error:
            how = type(error).__name__
            raise
        finally:
            _note("leave", how=how)
            _now.clear()

    setattr(Engine, name, watched)


def _watch_statements() -> None:
    original = SQLConnectionManager.add_query

    @functools.wraps(original)
    def watched(self: Any, sql: str, *args: Any, **options: Any) -> Any:
        word = _first_word(sql)
        _note("sent", word=word, writes=word == "commit" or _takes_effect_at_once(self, word))
        try:
            answer = original(self, sql, *args, **options)
        except BaseException as error:
            _note("failed", word=word, how=type(error).__name__)
            raise
        _note("ok", word=word, writes=word == "commit" or _takes_effect_at_once(self, word))
        return answer

    SQLConnectionManager.add_query = watched


def _takes_effect_at_once(manager: Any, word: str) -> bool:
    """Whether a statement is outside of a transaction. That is possible on DuckDB; psycopg2 always has one."""
    if manager.TYPE != "duckdb" or word in _READS:
        return False
    connection = manager.get_if_exists()
    return not (connection is not None and connection.transaction_open)


def _first_word(sql: str) -> str:
    rest = _COMMENTS.sub("", sql, count=1)
    found = re.match(r"[A-Za-z]+", rest)
    return found.group().lower() if found else ""


_watch_claims()
_watch_step("plan", lambda *_: "@plan")
_watch_step("start", lambda *_: "@start")
_watch_step("node", lambda _facts, unique_id, *_: unique_id)
_watch_step("close", lambda *_: "@close")
_watch_step("command", lambda *_: "@command")
_watch_statements()
