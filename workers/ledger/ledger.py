"""Run state in Redis. A Celery message is only a hint that a step may be ready; the ledger decides.

Each state change is one Lua script (`scripts/`). So the state stays valid if a worker dies, and a message may arrive
twice, late or never. Steps are dbt nodes and the ``@`` steps of `contract.keys`. Their states::

    blocked ──parents done──> ready ──handed out──> queued ──claim──> running ──finish──> done

    running ──lease expired, or handed back──> ready
    running ──given back for a retry──> retrying ──claim──> running
    queued ──another run's node writes the same relation──> waiting ──claim──> running

A claim returns a fence, a number that grows with each claim. To finish a step, give it back or renew its lease, a
worker must present that fence. All deadlines are times of the Redis server. Every script may be repeated, as a client
does when the answer was lost. `tests/integration/test_ledger_model.py` checks the ledger against a model.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import redis

from workers.contract.keys import QUEUE_LEVELS, Keys, is_run_id
from workers.contract.purge import forget_workers
from workers.contract.redis_values import text_of
from workers.contract.results import Attempt
from workers.contract.run_store import RESULT_TTL, RunStore, answer_of, run_ids_in, steps_of
from workers.contract.task_message import queue_key
from workers.ledger.records import Claim, Death, FenceLostError, Move, Refusal, StagedNode, lease_clock

LEASE_MS: Final = 8_000
"""Lease of a claim. A node of a dead host runs elsewhere after this time and one sweep of the reaper."""

PATIENCE_MS: Final = 300_000
"""How long a message may wait in a queue that is not empty before the reaper sends it again."""

FULL: Final = "Redis is full (maxmemory): nothing begins until it has room"

OTHER_DBT: Final = "planned by another dbt"
"""Reason to refuse a worker whose dbt release is not the run's (`scripts/prelude.lua`)."""

MAX_REASONS: Final = 200
OTHER_REASONS: Final = "(other reasons)"
"""Reasons contain text of refused messages, so their number is bounded."""


class Ledger(RunStore):
    """The state of all runs, over one connection pool. Thread-safe."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        keys: Keys | None = None,
        lease_ms: int = LEASE_MS,
        result_ttl: int = RESULT_TTL,
        dbt: str = "",
    ) -> None:
        super().__init__(client, keys=keys)
        self.dbt = dbt
        self.lease_ms = lease_ms
        self.result_ttl = result_ttl

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

    def outcomes(self, run_id: str) -> tuple[dict[str, bytes], list[Attempt], str | None]:
        """`results`, `attempts` and why the run was stopped, if it was, in one round trip."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.hgetall(self.keys.results(run_id))
            pipe.lrange(self.keys.attempts(run_id), 0, -1)
            pipe.hget(self.keys.run(run_id), "stop")
            results, attempts, stop = pipe.execute()
        return (
            {step.decode(): value for step, value in results.items()},
            [msgspec.json.decode(item, type=Attempt) for item in attempts],
            None if stop is None else stop.decode(),
        )

    def cache_changes(self, run_id: str, start: int) -> list[bytes]:
        """Changes of the relation cache from position `start` on."""
        raw: Any = self.client.lrange(self.keys.cache(run_id), start, -1)
        return [bytes(item) for item in raw]

    def results_since(self, run_id: str, position: int) -> list[bytes | None]:
        """The stored results of the steps of finished attempts, from the attempt at `position` on.

        Returns:
            one entry for each attempt; None where its step has no result yet.
        """
        raw: Any = self.client.lrange(self.keys.attempts(run_id), position, -1)
        steps = [msgspec.json.decode(item, type=Attempt).step for item in raw]
        if not steps:
            return []
        results: Any = self.client.hmget(self.keys.results(run_id), steps)
        return [None if each is None else bytes(each) for each in results]

    # -- workers -----------------------------------------------------------------------------------

    def claim(self, run_id: str, step: str, owner: str, *, session: int | None = None) -> Claim | Refusal:
        """Claim a step; a session claims the first one that is ready with ``step=""``."""
        before = lease_clock()
        try:
            answer = self.call_json(
                "claim", run_id, step, owner, self.lease_ms, "" if session is None else session,
                secrets.token_hex(6), self.dbt,
            )  # fmt: skip
        except redis.OutOfMemoryError:
            return Refusal(FULL)
        answer["publish"] = steps_of(answer.get("publish"))
        if not answer.pop("claimed"):
            return Refusal(answer["reason"], answer["publish"])
        return msgspec.convert(
            {"run_id": run_id, "sure_until": before + self.lease_ms / 1000, **answer}, Claim
        )

    def beat(self, run_id: str, held: Iterable[tuple[str, int]]) -> list[str]:
        """Renew the leases of (step, fence) pairs. Returns ``ok``, ``lost`` or ``stop`` for each."""
        flat = [part for pair in held for part in pair]
        answer = self.call("beat", run_id, self.lease_ms, *flat)
        return [word.decode() for word in answer]

    def beat_many(
        self, held: Iterable[tuple[str, Iterable[tuple[str, int]]]]
    ) -> list[list[str] | redis.ResponseError]:
        """`beat` for (step, fence) pairs of several runs, in one round trip. The answer for a run may be an error."""
        with self.client.pipeline(transaction=False) as pipe:
            for run_id, pairs in held:
                flat = [part for pair in pairs for part in pair]
                self.call("beat", run_id, self.lease_ms, *flat, pipe=pipe)
            answers = pipe.execute(raise_on_error=False)
        return [
            answer if isinstance(answer, redis.ResponseError) else [word.decode() for word in answer]
            for answer in answers
        ]

    def stage(
        self, claim: Claim, nodes: Sequence[StagedNode], *, roots: tuple[str, ...], chunk: int = 100
    ) -> None:
        """Put planned nodes in place before the plan step is finished.

        Args:
            roots: the nodes that wait for the start step alone.

        Raises:
            FenceLostError: this process no longer has the plan step.
        """
        for start in range(0, len(nodes), chunk):
            body = msgspec.json.encode(
                [
                    {"id": n.id, "priority": n.priority, "parents": n.parents,
                     "children": n.children, "ephemeral": n.ephemeral, **({"lock": n.lock} if n.lock else {})}
                    for n in nodes[start : start + chunk]
                ]
            )  # fmt: skip
            last = start + chunk >= len(nodes)
            if not self.call(
                "stage", claim.run_id, claim.fence, body, msgspec.json.encode(roots) if last else b""
            ):
                raise FenceLostError(claim.step)

    def finish(
        self, claim: Claim, move: Move, *, result: bytes = b"", attempt: Attempt | None = None
    ) -> tuple[str, ...]:
        """Store the result of a step and make the steps ready that waited for it.

        Returns:
            the steps whose messages the caller must send.

        Raises:
            FenceLostError: this process no longer has the step.
        """
        answer = self.call_json(
            "finish", claim.run_id, claim.step, claim.fence, result,
            msgspec.json.encode(attempt) if attempt else b"", msgspec.json.encode(move), self.result_ttl,
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
        """Give a claimed step back.

        Args:
            kind: ``retry`` after a transient failure, ``release`` before its execution, ``handback`` during its
                execution because the worker is stopping.
            wait: longest time in seconds until Celery delivers a retry.
            facts: fields to set on the run, such as the warehouse that a session must hold.

        Returns:
            the steps whose messages the caller must send.

        Raises:
            FenceLostError: this process no longer has the step.
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
        """Hand out the steps that may start. Returns the steps whose messages the caller must send."""
        return tuple(step.decode() for step in self.call("dispatch", run_id))

    def append_events(self, run_id: str, publisher: str, first: int, bodies: Sequence[bytes]) -> int:
        """Append events to a run's stream. A repeated call adds nothing.

        Args:
            first: number of the first event among the publisher's events of the run, from 1.

        Returns:
            how many were added.
        """
        return int(self.call("events", run_id, publisher, first, *bodies))

    def store_artifact(self, run_id: str, name: str, packed: bytes) -> None:
        """Store a compressed file of a run for as long as the run's result."""
        self.client.set(self.keys.artifact(run_id, name), packed, ex=self.result_ttl)

    def count_rejected(self, reason: str) -> None:
        """Count a message that was refused. Past `MAX_REASONS` new reasons are counted together."""
        # JSON can contain a lone surrogate, which UTF-8 cannot encode
        key, field = self.keys.rejected(), reason[:200].encode("utf-8", "backslashreplace").decode()
        if not self.client.hexists(key, field) and int(answer_of(self.client.hlen(key))) >= MAX_REASONS:
            field = OTHER_REASONS
        with contextlib.suppress(redis.OutOfMemoryError):
            self.client.hincrby(key, field, 1)

    def queue_length(self, queue: str) -> int:
        """How many messages wait in a Celery queue, of all priorities."""
        with self.client.pipeline(transaction=False) as pipe:
            for level in QUEUE_LEVELS:
                pipe.llen(queue + level)
            return sum(pipe.execute())

    def others_wait_in_line(self, run_id: str, queue: str) -> bool:
        """Whether a run of the priority of `run_id`, or a more urgent one, waits for its turn, and no message of a more
        urgent priority waits in the queue."""
        priority = self.priority(run_id)
        with self.client.pipeline(transaction=False) as pipe:
            pipe.zrange(self.keys.turns_line(), 0, 0)
            for level in QUEUE_LEVELS[: QUEUE_LEVELS.index(queue_key("", priority))]:
                pipe.llen(queue + level)
            first, *urgent = pipe.execute()
        return bool(first) and not any(urgent) and self.priority(text_of(first[0])) <= priority

    # -- the reaper --------------------------------------------------------------------------------

    def try_a_write(self) -> None:
        """Send a write command that changes nothing and that a full server accepts.

        Raises:
            redis.RedisError: the server refuses every write, or cannot be reached.
        """
        self.client.delete(self.keys.probe())

    def overdue(self, *, queue_empty: bool, limit: int = 200) -> list[tuple[str, str]]:
        """(run, step) pairs to check: expired leases, then steps whose messages were not claimed.

        While messages wait in the queue, the latter are due only after `PATIENCE_MS`: their messages are probably not
        lost, but behind others.
        """
        now = int(self.server_time() * 1000)
        missed = now if queue_empty else now - PATIENCE_MS
        pairs = []
        for key, until in ((self.keys.leases(), now), (self.keys.watches(), missed)):
            raw: Any = self.client.zrange(key, "-inf", until, byscore=True, offset=0, num=limit)
            pairs += self._steps_in(key, raw)
        return pairs

    def _steps_in(self, key: str, entries: Iterable[bytes]) -> list[tuple[str, str]]:
        """(run, step) pairs of entries of leases or watches. Other entries are removed: they would stay overdue."""
        pairs = []
        for entry in entries:
            run_id, _, step = text_of(entry).partition(" ")
            if is_run_id(run_id) and step:
                pairs.append((run_id, step))
            else:
                self.client.zrem(key, entry)
                self.count_rejected(f"not a step, in {key}")
        return pairs

    def look_later(self, run_id: str, step: str, seconds: float = 60.0) -> None:
        """Postpone the check of a step whose check failed, so that it does not delay others."""
        due, member = int((self.server_time() + seconds) * 1000), f"{run_id} {step}"
        for key in (self.keys.leases(), self.keys.watches()):
            self.client.zadd(key, {member: due}, xx=True)

    def reap(self, run_id: str, step: str, looked_ms: int = 0) -> dict[str, Any]:
        """Check one overdue lease or watch. In the answer, ``what`` is nothing, publish, lost, deadline or late.

        Args:
            looked_ms: time of the server when the caller found it overdue. If that is more than a third of a lease
                ago, the server was slow, renewals may be delayed too, and ``what`` is late.
        """
        answer = self.call_json("reap", run_id, step, looked_ms + self.lease_ms // 3 if looked_ms else "")
        answer["publish"] = steps_of(answer.get("publish"))
        return answer

    def bury(self, owner: str, death: Death) -> list[tuple[str, str, tuple[str, ...]]]:
        """Requeue the steps that a dead process had claimed, without waiting for their leases to expire.

        Returns:
            for each of them its run, the step, and the steps whose messages the caller must send.
        """
        body = msgspec.json.encode(death)
        put_back = []
        raw: Any = self.client.zrange(self.keys.leases(), 0, -1)
        for run_id, step in self._steps_in(self.keys.leases(), raw):
            answer = self.call_json("reap", run_id, step, "", owner, body)
            if answer["what"] == "lost":
                put_back.append((run_id, step, steps_of(answer.get("publish"))))
        return put_back

    def some_active_runs(self, count: int = 20) -> list[str]:
        """A random sample of unfinished runs."""
        raw: Any = self.client.zrandmember(self.keys.active(), count)
        return run_ids_in(raw or ())

    def forget_dead_workers(self) -> None:
        """Remove the registrations of workers that have not renewed them for an hour."""
        forget_workers(self, silent_for=3600)
