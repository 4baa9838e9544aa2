"""A worker without dbt: it executes the steps of runs on a ledger in fakeredis with scripted outcomes."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import fakeredis
import msgspec
import pytest

from producer.client import RelayClient
from producer.client import relay_client as client_module
from producer.dbt_cli.options import dbt_versions
from workers.contract.errors import ErrorInfo
from workers.contract.events import LINE, Event, encode_event
from workers.contract.keys import QUEUE, addressed
from workers.contract.results import RUN_CANCELLED, RUN_FAILED, RUN_SUCCEEDED, Attempt
from workers.engine.interface import Finished, StepResult, encode
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim, Move, StagedNode
from workers.runs import failures
from workers.runs.final_record import make_final_record
from workers.runs.retry_policy import delay_before, may_retry

Behaviour = Callable[[Claim], ErrorInfo | None]
"""Outcome of a node: an error, or None for success."""


class FakeWorker:
    """Executes every run that is submitted in this process.

    Args:
        nodes: nodes of the project: name → names of its parents.
        behaviour: name → outcome of the node; other nodes succeed.
        threads: number of steps that are executed at once.
    """

    def __init__(
        self,
        nodes: Mapping[str, tuple[str, ...]],
        behaviour: Mapping[str, Behaviour] | None = None,
        threads: int = 2,
    ) -> None:
        self.server = fakeredis.FakeServer()
        self.ledger = Ledger(self.redis())
        self.nodes, self.behaviour = nodes, behaviour or {}
        self.waits: list[float] = []
        self.failure: BaseException | None = None
        self._due: queue.Queue[tuple[str, str] | None] = queue.Queue()
        self._events: dict[str, int] = {}
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]

    def redis(self) -> fakeredis.FakeRedis:
        return fakeredis.FakeRedis(server=self.server)

    def publish(self, run_id: str, steps: tuple[str, ...]) -> None:
        for step in steps:
            self._due.put(addressed(run_id, step))

    @contextmanager
    def running(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorker]:
        """Connect the clients of this process to this worker, and execute runs in the block."""
        monkeypatch.setattr(client_module, "connect", lambda _, **__: self.redis())
        monkeypatch.setattr(RelayClient, "publish", lambda _, run_id, steps: self.publish(run_id, steps))
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            for _ in self._threads:
                self._due.put(None)
            for thread in self._threads:
                thread.join(10)
            assert self.failure is None, self.failure

    def register(self) -> None:
        """Register a worker with a dbt release whose options are packaged."""
        now = time.time()
        entry = {"host": "fake", "pid": 1, "processes": 1, "version": "", "queue": QUEUE, "since": now,
                "seen": now + 3600, "dbt": dbt_versions()[-1]}  # fmt: skip
        self.redis().hset(self.ledger.keys.workers(), "fake:1", json.dumps(entry))

    def _work(self) -> None:
        try:
            while (due := self._due.get()) is not None:
                run_id, step = due
                claim = self.ledger.claim(run_id, step, f"fake:{threading.get_ident()}")
                if isinstance(claim, Claim):
                    self._step(claim)
        except BaseException as error:  # noqa: BLE001 - raised in `running`
            self.failure = error

    def _step(self, claim: Claim) -> None:
        methods = {
            "@plan": self._plan,
            "@start": self._start,
            "@close": self._close,
            "@command": self._command,
        }
        self.publish(claim.run_id, methods.get(claim.step, self._node)(claim))

    def log_line(self, claim: Claim, text: str) -> None:
        """Publish a console line."""
        event = Event(
            kind=LINE, run_id=claim.run_id, node=claim.step, text=text, at=time.time(), worker="fake"
        )
        with self._lock:
            first = self._events[claim.run_id] = self._events.get(claim.run_id, 0) + 1
            self.ledger.append_events(claim.run_id, "fake", first, [encode_event(event)])

    def _selected(self, run_id: str) -> list[str]:
        request = self.ledger.request(run_id)
        assert request is not None
        args = list(request.args)
        if "--select" not in args:
            return list(self.nodes)
        rest = args[args.index("--select") + 1 :]
        end = next((place for place, arg in enumerate(rest) if arg.startswith("-")), len(rest))
        return [name for name in self.nodes if name in rest[:end]]

    def _plan(self, claim: Claim) -> tuple[str, ...]:
        request = self.ledger.request(claim.run_id)
        assert request is not None
        names = self._selected(claim.run_id)
        args = list(request.args)
        threads = int(args[args.index("--threads") + 1]) if "--threads" in args else 1
        self.log_line(claim, f"Found {len(self.nodes)} models")
        staged = [
            StagedNode(
                unique(name), place, max(1, sum(parent in names for parent in self.nodes[name])),
                tuple(unique(child) for child in names if name in self.nodes[child]),
            )
            for place, name in enumerate(names)
        ]  # fmt: skip
        roots = tuple(
            unique(name) for name in names if not any(parent in names for parent in self.nodes[name])
        )
        self.ledger.stage(claim, staged, roots=roots)
        facts: dict[str, str | int | float] = {"mode": "message", "parallel": threads}
        return self.ledger.finish(claim, Move(word="planned", facts=facts, nodes=len(staged)))

    def _start(self, claim: Claim) -> tuple[str, ...]:
        return self.ledger.finish(claim, Move(word="success"))

    def _node(self, claim: Claim) -> tuple[str, ...]:
        began, name = time.time(), claim.step.rpartition(".")[2]
        if claim.skip:
            return self._store(claim, StepResult(unique_id=claim.step, status="skipped", name=name), began)
        self.log_line(claim, f"{claim.index} START model main.{name} [RUN]")
        error = self.behaviour.get(name, lambda _: None)(claim)
        request = self.ledger.request(claim.run_id)
        assert request is not None
        if error is not None and may_retry(claim.step, error, claim.tries, request.retry):
            wait = delay_before(claim.tries, request.retry)
            self.waits.append(wait)
            self.ledger.give_back(claim, "retry", wait=wait, attempt=attempt(claim, began, "error", error))
            return (claim.step,)
        status = "success" if error is None else "fail" if error.category == "data_quality" else "error"
        self.log_line(claim, f"{claim.index} {'OK' if error is None else 'ERROR'} model main.{name} [..]")
        result = StepResult(
            unique_id=claim.step, status=status, name=name, resource_type="model", error=error,
            message="OK" if error is None else error.message,
        )  # fmt: skip
        return self._store(claim, result, began)

    def _store(self, claim: Claim, result: StepResult, began: float) -> tuple[str, ...]:
        if result.error is not None:
            result.error = msgspec.structs.replace(result.error, attempts=claim.tries)
        return self.ledger.finish(
            claim, Move(word=result.status, blocks=result.status == "error"), result=encode(result),
            attempt=attempt(claim, began, result.status, result.error),
        )  # fmt: skip

    def _close(self, claim: Claim) -> tuple[str, ...]:
        stored = self.ledger.results(claim.run_id).values()
        steps = [msgspec.json.decode(raw, type=StepResult) for raw in stored]
        stop = self.ledger.fact(claim.run_id, "stop")
        good = stop is None and all(step.status in {"success", "pass"} for step in steps)
        finished = Finished(return_code=0 if good else 1, error=failures.cancelled(stop) if stop else None)
        self.log_line(claim, f"Done. TOTAL={len(steps)}")
        return self._end(claim, finished, steps)

    def _command(self, claim: Claim) -> tuple[str, ...]:
        self.log_line(claim, "a line of the command")
        return self._end(claim, Finished(return_code=0), [])

    def _end(self, claim: Claim, finished: Finished, steps: list[StepResult]) -> tuple[str, ...]:
        final = make_final_record(finished, steps, self.ledger.attempts(claim.run_id))
        cancelled = self.ledger.fact(claim.run_id, "stop") is not None
        state = RUN_CANCELLED if cancelled else RUN_FAILED if finished.return_code else RUN_SUCCEEDED
        return self.ledger.finish(claim, Move(word="done", final=final.decode(), final_state=state))


def unique(name: str) -> str:
    """dbt's unique id of a model."""
    return f"model.trial.{name}"


def attempt(claim: Claim, began: float, status: str, error: ErrorInfo | None) -> Attempt:
    return Attempt(
        step=claim.step, number=claim.tries, worker="fake", started_at=began, finished_at=time.time(),
        status=status, error=error,
    )  # fmt: skip
