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

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import redis

from workers.contract.names import Keys
from workers.contract.results import Attempt
from workers.contract.runs import RESULT_TTL, RunStore, steps_of

LEASE_MS: Final = 10_000
"""How long a claim lasts without a beat. A dead host's node runs elsewhere within this plus a sweep."""

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


class Ledger(RunStore):
    """Every run, over one connection pool. Safe to use from several threads."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        keys: Keys | None = None,
        lease_ms: int = LEASE_MS,
        result_ttl: int = RESULT_TTL,
    ) -> None:
        super().__init__(client, keys=keys, result_ttl=result_ttl)
        self.lease_ms = lease_ms

    # -- reading -----------------------------------------------------------------------------------

    def result(self, run_id: str, step: str) -> bytes | None:
        """The stored result of a step."""
        raw: Any = self.client.hget(self.keys.results(run_id), step)
        return raw if raw is None else bytes(raw)

    def results(self, run_id: str) -> dict[str, bytes]:
        """The stored results of every step that has one."""
        raw: Any = self.client.hgetall(self.keys.results(run_id))
        return {step.decode(): value for step, value in raw.items()}

    def attempts(self, run_id: str) -> list[Attempt]:
        """Every finished attempt of every step, in the order they finished."""
        raw: Any = self.client.lrange(self.keys.attempts(run_id), 0, -1)
        return [msgspec.json.decode(item, type=Attempt) for item in raw]

    def cache_changes(self, run_id: str, start: int) -> list[bytes]:
        """Changes of the relation cache from position `start` on."""
        raw: Any = self.client.lrange(self.keys.cache(run_id), start, -1)
        return [bytes(item) for item in raw]

    # -- workers -----------------------------------------------------------------------------------

    def claim(self, run_id: str, step: str, owner: str, *, session: int | None = None) -> Claim | Refusal:
        """Take a step, or with ``step=""`` the best one that is ready (sessions)."""
        answer = self.call_json(
            "claim", run_id, step, owner, self.lease_ms, "" if session is None else session,
            secrets.token_hex(6),
        )  # fmt: skip
        if not answer.pop("claimed"):
            return Refusal(answer["reason"], steps_of(answer.get("publish")))
        return msgspec.convert({"run_id": run_id, **answer}, Claim)

    def beat(self, run_id: str, held: Iterable[tuple[str, int]], lock: str | None = None) -> list[str]:
        """Renew the leases of (step, fence) pairs: ``ok``, ``lost`` or ``stop`` for each."""
        flat = [part for pair in held for part in pair]
        extra = [self.keys.lock(lock)] if lock else []
        answer = self.call("beat", run_id, self.lease_ms, *flat, extra=extra)
        return [word.decode() for word in answer]

    def stage(
        self, claim: Claim, nodes: Sequence[StagedNode], *, roots: tuple[str, ...], chunk: int = 500
    ) -> None:
        """Put planned nodes in place before the plan step is finished.

        Args:
            roots: the nodes that wait for the start step alone.

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
            if not self.call("stage", claim.run_id, claim.fence, body, msgspec.json.encode(roots)):
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
        answer = self.call_json(
            "finish", claim.run_id, claim.step, claim.fence, result,
            msgspec.json.encode(attempt) if attempt else b"", msgspec.json.encode(move),
        )  # fmt: skip
        if not answer["accepted"]:
            raise FenceLostError(answer["reason"])
        return steps_of(answer["publish"])

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
        answer = self.call_json(
            "giveback", claim.run_id, claim.step, claim.fence, kind, int(wait * 1000),
            msgspec.json.encode(attempt) if attempt else b"",
            msgspec.json.encode(facts) if facts else b"",
        )  # fmt: skip
        if not answer["accepted"]:
            raise FenceLostError(answer["reason"])
        return steps_of(answer["publish"])

    def dispatch(self, run_id: str) -> tuple[str, ...]:
        """Hand out what may start and was not handed out; the steps to publish."""
        return tuple(step.decode() for step in self.call("dispatch", run_id))

    def append_events(self, run_id: str, publisher: str, first: int, bodies: Sequence[bytes]) -> int:
        """Append events; `first` counts the publisher's events of the run from 1, so that a repeated
        call adds nothing twice. Returns how many were added."""
        return int(self.call("events", run_id, publisher, first, *bodies))

    def store_artifact(self, run_id: str, name: str, packed: bytes) -> None:
        """Keep a file of a run, compressed, for as long as the run's result."""
        self.client.set(self.keys.artifact(run_id, name), packed, ex=self.result_ttl)

    def count_rejected(self, reason: str) -> None:
        """Count a message that was refused."""
        self.client.hincrby(self.keys.rejected(), reason[:200], 1)

    # -- the reaper --------------------------------------------------------------------------------

    def overdue(self, limit: int = 200) -> list[tuple[str, str]]:
        """(run, step) pairs whose watch ran out, the longest overdue first."""
        now = self.server_time()
        raw: Any = self.client.zrange(
            self.keys.leases(), 0, int(now * 1000), byscore=True, offset=0, num=limit
        )
        pairs = (item.decode().split(" ", 1) for item in raw)
        return [(run_id, step) for run_id, step in pairs]

    def reap(self, run_id: str, step: str, *, queue_empty: bool) -> dict[str, Any]:
        """Look at one overdue watch: ``what`` is nothing, publish or lost."""
        answer = self.call_json("reap", run_id, step, "1" if queue_empty else "0")
        answer["publish"] = steps_of(answer.get("publish"))
        return answer

    def server_time(self) -> float:
        """Redis' clock, seconds since the epoch."""
        clock: Any = self.client.time()
        return int(clock[0]) + int(clock[1]) / 1e6
