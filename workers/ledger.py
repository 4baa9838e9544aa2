"""Run state in Redis. A Celery message is only a hint that a step may be ready; this decides.

Each state change is one Lua script (`lua/`), so that a worker that dies leaves a state that another
can go on from, and a message that arrives twice, late or never changes nothing. Steps are dbt nodes
and the ``@`` steps of `contract.names`. Their life::

    blocked ──parents done──> ready ──handed out──> queued ──claim──> running ──finish──> done
                                ^                                       │  │
                                ├──────────── lease ran out ────────────┘  │
                                └──<── claim <── retrying <── giveback ────┘

A claim gives a fence, a number that grows with each claim; whoever finishes, gives back or renews
must show it. Times that decide anything are the Redis server's.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, Final

import msgspec
import redis

from workers.contract.messages import RunRequest, decode_request, encode_request
from workers.contract.names import STEP_COMMAND, STEP_PLAN, Keys
from workers.contract.messages import NODE_COMMANDS
from workers.contract.results import Attempt

LEASE_MS: Final = 10_000
"""How long a claim lasts without a beat. A dead host's node runs elsewhere within this plus a sweep."""

RESULT_TTL: Final = 24 * 3600
"""Seconds that a finished run stays readable."""

SESSION: Final = "@session"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A step that this process may execute.

    Attributes:
        fence: what every later word about the step must show.
        tries: which execution this is, from 1.
        losses: how many executions ended with their worker.
        index: dbt's number of the node in the run (``3 of 40``), 0 where dbt gives none.
        skip: whether the node is not to run because a parent failed.
        cause: the step whose failure makes it skip.
        stopping: whether the run is being stopped (the close and first steps still run then).
    """

    run_id: str
    step: str
    fence: int
    tries: int
    losses: int
    index: int
    skip: bool
    cause: str
    stopping: bool


class Refusal(msgspec.Struct, frozen=True):
    """Why a claim was not granted, and steps that have to be published instead."""

    reason: str
    publish: tuple[str, ...] = ()


class Move(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What finishing a step does to its run.

    Attributes:
        word: the state that watchers see, dbt's status for a node.
        blocks: whether everything downstream is to be skipped.
        stop: ``fail_fast`` ends the run early: nothing further starts but the close.
        facts: fields of the run that later steps need.
        cache: changes of dbt's relation cache, JSON each.
        nodes: for the plan: how many nodes it staged.
        final: the run's result, JSON; ends the run.
        final_state: the run's last state, with `final`.
    """

    word: str
    blocks: bool = False
    stop: str | None = None
    facts: Mapping[str, str | int | float] | None = None
    cache: tuple[str, ...] = ()
    nodes: int = 0
    final: str | None = None
    final_state: str | None = None


class StagedNode(msgspec.Struct, frozen=True):
    """A planned node: `parents` counts the nodes it waits for, the start step included."""

    id: str
    priority: int
    parents: int
    children: tuple[str, ...]
    ephemeral: bool = False


class FenceLostError(Exception):
    """The step belongs to somebody else by now, or its run has ended: what was done is not recorded."""


@functools.cache
def _script_text(name: str) -> str:
    folder = resources.files("workers") / "lua"
    return (folder / "prelude.lua").read_text() + (folder / f"{name}.lua").read_text()


def _steps(value: Any) -> tuple[str, ...]:
    # Lua's empty table is an object in JSON
    return tuple(value) if isinstance(value, list) else ()


class Ledger:
    """Every run, over one connection pool. Safe to use from several threads."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        keys: Keys | None = None,
        lease_ms: int = LEASE_MS,
        result_ttl: int = RESULT_TTL,
    ) -> None:
        self.client = client
        self.keys = keys or Keys()
        self.lease_ms = lease_ms
        self.result_ttl = result_ttl
        self._scripts: dict[str, Any] = {}

    def _call(self, name: str, run_id: str, *args: Any, extra: Sequence[str] = ()) -> Any:
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self.client.register_script(_script_text(name))
        keys = self.keys
        names = [
            *keys.of_run(run_id), keys.channel(run_id), keys.leases(), keys.active(), keys.finished(),
            *extra,
        ]  # fmt: skip
        return script(keys=names, args=[run_id, *args])

    def _json(self, name: str, run_id: str, *args: Any, extra: Sequence[str] = ()) -> dict[str, Any]:
        answer = self._call(name, run_id, *args, extra=extra)
        decoded: dict[str, Any] = msgspec.json.decode(answer)
        return decoded

    # -- producers ---------------------------------------------------------------------------------

    def submit(self, request: RunRequest) -> str:
        """Record a run; its first step is returned, to be published. Submitting it again is a no-op."""
        step = STEP_PLAN if request.command in NODE_COMMANDS else STEP_COMMAND
        self._call("submit", request.run_id, encode_request(request), step, self.result_ttl)
        return step

    def cancel(self, run_id: str, reason: str = "cancelled") -> tuple[str, tuple[str, ...]]:
        """Stop a run: queued nodes at once, running ones at their next beat.

        Returns:
            the state it was in, and the steps to publish.
        """
        answer = self._json("cancel", run_id, reason)
        return str(answer["state"]), _steps(answer["publish"])

    # -- reading -----------------------------------------------------------------------------------

    def request(self, run_id: str) -> RunRequest | None:
        """The request of a run, or None when there is no such run (any more).

        Raises:
            InvalidMessageError: what is stored is not a request of this release.
        """
        raw = self.client.hget(self.keys.run(run_id), "request")
        return None if raw is None else decode_request(raw)  # type: ignore[arg-type]

    def facts(self, run_id: str) -> dict[str, str]:
        """Every field of the run's hash but the request: state, counters, what plan learned."""
        raw: dict[bytes, bytes] = self.client.hgetall(self.keys.run(run_id))  # type: ignore[assignment]
        return {key.decode(): value.decode() for key, value in raw.items() if key != b"request"}

    def fact(self, run_id: str, name: str) -> str | None:
        """One field of the run's hash."""
        raw = self.client.hget(self.keys.run(run_id), name)
        return None if raw is None else raw.decode()  # type: ignore[union-attr]

    def result(self, run_id: str, step: str) -> bytes | None:
        """The stored result of a step."""
        return self.client.hget(self.keys.results(run_id), step)  # type: ignore[return-value]

    def results(self, run_id: str) -> dict[str, bytes]:
        """The stored results of every step that has one."""
        raw: dict[bytes, bytes] = self.client.hgetall(self.keys.results(run_id))  # type: ignore[assignment]
        return {step.decode(): value for step, value in raw.items()}

    def attempts(self, run_id: str) -> list[Attempt]:
        """Every finished attempt of every step, in the order they finished."""
        raw: list[bytes] = self.client.lrange(self.keys.attempts(run_id), 0, -1)  # type: ignore[assignment]
        return [msgspec.json.decode(item, type=Attempt) for item in raw]

    def cache_changes(self, run_id: str, start: int) -> list[bytes]:
        """Changes of the relation cache from position `start` on."""
        return self.client.lrange(self.keys.cache(run_id), start, -1)  # type: ignore[return-value]

    def active_runs(self) -> list[str]:
        """Unfinished runs, oldest first."""
        raw: list[bytes] = self.client.zrange(self.keys.active(), 0, -1)  # type: ignore[assignment]
        return [run_id.decode() for run_id in raw]

    # -- workers -----------------------------------------------------------------------------------

    def claim(self, run_id: str, step: str, owner: str, *, session: int | None = None) -> Claim | Refusal:
        """Take a step, or with ``step=""`` the best one that is ready (sessions)."""
        answer = self._json(
            "claim", run_id, step, owner, self.lease_ms, "" if session is None else session,
            secrets.token_hex(6),
        )  # fmt: skip
        if not answer.pop("claimed"):
            return Refusal(answer["reason"], _steps(answer.get("publish")))
        return msgspec.convert({"run_id": run_id, **answer}, Claim)

    def beat(self, run_id: str, held: Iterable[tuple[str, int]], lock: str | None = None) -> list[str]:
        """Renew the leases of (step, fence) pairs: ``ok``, ``lost`` or ``stop`` for each."""
        flat = [part for pair in held for part in pair]
        extra = [self.keys.lock(lock)] if lock else []
        answer = self._call("beat", run_id, self.lease_ms, *flat, extra=extra)
        return [word.decode() for word in answer]

    def stage(self, claim: Claim, nodes: Sequence[StagedNode], chunk: int = 500) -> None:
        """Put planned nodes in place before the plan step is finished.

        Raises:
            FenceLostError: the plan step is no longer this process's.
        """
        for start in range(0, len(nodes), chunk):
            body = msgspec.json.encode(
                [
                    {"id": n.id, "priority": n.priority, "parents": n.parents,
                     "children": n.children, "ephemeral": n.ephemeral}
                    for n in nodes[start : start + chunk]
                ]
            )  # fmt: skip
            if not self._call("stage", claim.run_id, claim.fence, body):
                raise FenceLostError(claim.step)

    def finish(
        self, claim: Claim, move: Move, *, result: bytes = b"", attempt: Attempt | None = None
    ) -> tuple[str, ...]:
        """Store a result and release what waited for it.

        Returns:
            the steps whose messages have to be published.

        Raises:
            FenceLostError: the step is no longer this process's.
        """
        answer = self._json(
            "finish", claim.run_id, claim.step, claim.fence, result,
            msgspec.json.encode(attempt) if attempt else b"", msgspec.json.encode(move),
        )  # fmt: skip
        if not answer["accepted"]:
            raise FenceLostError(answer["reason"])
        return _steps(answer["publish"])

    def give_back(
        self,
        claim: Claim,
        kind: str,
        *,
        wait: float = 0.0,
        attempt: Attempt | None = None,
        facts: Mapping[str, str | int | float] | None = None,
    ) -> tuple[str, ...]:
        """Put a step back: ``retry`` after it failed for a passing reason, ``release`` unexecuted.

        Args:
            wait: seconds, at most, until Celery brings a retry back.
            facts: fields to set on the run, such as the warehouse that a session must hold.

        Raises:
            FenceLostError: the step is no longer this process's.
        """
        answer = self._json(
            "giveback", claim.run_id, claim.step, claim.fence, kind, int(wait * 1000),
            msgspec.json.encode(attempt) if attempt else b"",
            msgspec.json.encode(facts) if facts else b"",
        )  # fmt: skip
        if not answer["accepted"]:
            raise FenceLostError(answer["reason"])
        return _steps(answer["publish"])

    def dispatch(self, run_id: str) -> tuple[str, ...]:
        """Hand out what may start and was not handed out; the steps to publish."""
        return tuple(step.decode() for step in self._call("dispatch", run_id))

    # -- the reaper --------------------------------------------------------------------------------

    def overdue(self, limit: int = 200) -> list[tuple[str, str]]:
        """(run, step) pairs whose watch ran out, the longest overdue first."""
        now = self.server_time()
        raw: list[bytes] = self.client.zrange(  # type: ignore[assignment]
            self.keys.leases(), 0, int(now * 1000), byscore=True, offset=0, num=limit
        )
        pairs = (item.decode().split(" ", 1) for item in raw)
        return [(run_id, step) for run_id, step in pairs]

    def reap(self, run_id: str, step: str, *, queue_empty: bool) -> dict[str, Any]:
        """Look at one overdue watch: ``what`` is nothing, publish or lost."""
        answer = self._json("reap", run_id, step, "1" if queue_empty else "0")
        answer["publish"] = _steps(answer.get("publish"))
        return answer

    def server_time(self) -> float:
        """Redis' clock, seconds since the epoch."""
        seconds, micros = self.client.time()  # type: ignore[misc]
        return int(seconds) + int(micros) / 1e6
