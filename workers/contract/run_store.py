"""The state of runs in Redis, as producers use it: submit, read and cancel a run.

It uses the ledger's scripts (`workers/ledger/scripts`). `workers.ledger.ledger` adds the operations of workers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, Final

import msgspec
import redis

from workers.contract.errors import ErrorInfo, InvalidMessageError
from workers.contract.keys import STEP_COMMAND, STEP_PLAN, Keys, addressed, is_run_id
from workers.contract.messages import NODE_COMMANDS, RunRequest, decode_request, encode_request
from workers.contract.redis_values import number_of, text_of, value_of
from workers.contract.results import Attempt, NodeResult
from workers.contract.task_message import queue_key, task_message

RESULT_TTL: Final = 24 * 3600
"""Seconds that a finished run stays readable."""

MAX_PRIORITIES: Final = 1000
"""Maximal number of runs whose priority is cached."""

ENV_NAMES: Final = "env_names"
"""Field of an ended run's hash: JSON list of the names of the values that its caller's environment contributed."""


class FinalRecord(msgspec.Struct, kw_only=True):
    """The final record of an ended run: its result, without its lines."""

    return_code: int
    nodes: list[NodeResult] = []
    error: ErrorInfo | None = None
    run_results: dict[str, Any] | None = None
    attempts: list[Attempt] = []
    warnings: list[str] = []


@functools.cache
def _script_text(name: str) -> str:
    folder = resources.files("workers") / "ledger" / "scripts"
    return "".join((folder / f"{part}.lua").read_text() for part in ("prelude", "turns", "files", name))


def steps_of(value: Any) -> tuple[str, ...]:
    """Return the steps in a script's answer. Lua encodes an empty list as a JSON object."""
    return tuple(value) if isinstance(value, list) else ()


def run_ids_in(raw: Iterable[bytes]) -> list[str]:
    """Return the run ids among stored texts."""
    return [run_id for run_id in map(text_of, raw) if is_run_id(run_id)]


def answer_of(value: Any) -> Any:
    """Return a redis-py answer untyped: redis-py types it as awaitable or not."""
    return value


def _facts_in(raw: dict[bytes, bytes]) -> dict[str, str]:
    return {text_of(key): text_of(value) for key, value in raw.items() if key not in (b"request", b"final")}


def _decode_final_record(raw: bytes | None) -> FinalRecord | None:
    """Decode a final record.

    Raises:
        InvalidMessageError: this release cannot read it.
    """
    if raw is None:
        return None
    record = value_of(raw, FinalRecord)
    if record is None:
        raise InvalidMessageError("the stored result of the run is not readable")
    return record


class RunStore:
    """The runs in Redis. Thread-safe."""

    def __init__(self, client: redis.Redis, *, keys: Keys | None = None) -> None:
        self.client = client
        self.keys = keys or Keys()
        self._scripts: dict[str, Any] = {}
        self._priorities: dict[str, int] = {}

    def call(self, name: str, run_id: str, *args: Any, pipe: Any = None) -> Any:
        """Call a ledger script with a run's keys, or add the call to a pipeline."""
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self.client.register_script(_script_text(name))
        keys = self.keys
        names = [
            *keys.of_run(run_id), keys.channel(run_id), keys.leases(), keys.watches(), keys.active(),
            keys.finished(), keys.locks(), keys.strays(), keys.log(run_id), keys.turns(),
        ]  # fmt: skip
        return script(keys=names, args=[run_id, *args], client=pipe)

    def call_json(self, name: str, run_id: str, *args: Any) -> dict[str, Any]:
        """Call a ledger script that returns JSON."""
        decoded: dict[str, Any] = msgspec.json.decode(self.call(name, run_id, *args))
        return decoded

    def submit(self, request: RunRequest) -> str:
        """Store a run. Does nothing if it is stored already.

        Returns:
            The run's first step, which the caller has to publish.

        Raises:
            InvalidMessageError: workers would refuse the request; nothing was stored.
        """
        body = encode_request(request)
        decode_request(body)
        planned = request.first_word in NODE_COMMANDS or request.retry_of is not None
        step = STEP_PLAN if planned else STEP_COMMAND
        self._cache_priority(request.run_id, request.priority)
        self.call(
            "submit", request.run_id, body, step, request.priority,
            f"{request.limits.deadline:.15g}",
        )  # fmt: skip
        return step

    def cancel(self, run_id: str, reason: str = "cancelled") -> tuple[str, tuple[str, ...]]:
        """Cancel a run: queued nodes at once, running ones when their leases are renewed next.

        Returns:
            The run's state before (``unknown`` if it does not exist), and the steps that the caller has to publish.
        """
        answer = self.call_json("cancel", run_id, reason)
        return str(answer["state"]), steps_of(answer["publish"])

    def request(self, run_id: str) -> RunRequest | None:
        """Return the request of a run, or None if the run does not exist.

        Raises:
            InvalidMessageError: this release cannot read the request.
        """
        raw: Any = self.client.hget(self.keys.run(run_id), "request")
        return None if raw is None else decode_request(raw)

    def read(self, run_id: str) -> tuple[RunRequest | None, dict[str, str], FinalRecord | None]:
        """Read `request`, `facts` and `final` of a run at once.

        Raises:
            InvalidMessageError: this release cannot read the request or the final record.
        """
        raw: Any = self.client.hgetall(self.keys.run(run_id))
        request, final = raw.get(b"request"), raw.get(b"final")
        return (
            None if request is None else decode_request(request),
            _facts_in(raw),
            _decode_final_record(final),
        )

    def facts(self, run_id: str) -> dict[str, str]:
        """Return every field of the run's hash except request and final record: state, counters, facts of the plan."""
        return _facts_in(answer_of(self.client.hgetall(self.keys.run(run_id))))

    def fact(self, run_id: str, name: str) -> str | None:
        """Return one field of the run's hash, or None."""
        raw: Any = self.client.hget(self.keys.run(run_id), name)
        return None if raw is None else text_of(raw)

    def server_time(self) -> float:
        """Return the time of the Redis server, seconds since the epoch."""
        seconds, micros = answer_of(self.client.time())
        return int(seconds) + int(micros) / 1e6

    def priority(self, run_id: str) -> int:
        """Return the priority of a run (`RunRequest.priority`), which never changes; 0 if the run does not exist."""
        priority = self._priorities.get(run_id)
        if priority is None:
            stored = self.fact(run_id, "priority")
            if stored is None:
                return 0
            priority = int(number_of(stored))
            self._cache_priority(run_id, priority)
        return priority

    def _cache_priority(self, run_id: str, priority: int) -> None:
        if len(self._priorities) >= MAX_PRIORITIES:
            self._priorities.clear()
        self._priorities[run_id] = priority

    def publish(
        self,
        run_id: str,
        steps: Sequence[str],
        queue: str,
        *,
        root_id: str | None = None,
        parent_id: str | None = None,
    ) -> None:
        """Send the Celery messages of steps, with one Redis command per priority.

        Celery's own way costs several times as much as a ledger script: a connection of its pool, and an event for
        each message.

        Args:
            run_id: the run.
            steps: its steps, or ``<run> <step>`` (`keys.addressed`).
            queue: the Celery queue.
            root_id, parent_id: ids of the Celery task that sends the messages.

        Raises:
            redis.RedisError: some of the messages may have been sent.
        """
        messages: dict[str, list[bytes]] = {}
        for entry in steps:
            run, step = addressed(run_id, entry)
            level = self.priority(run)
            messages.setdefault(queue_key(queue, level), []).append(
                task_message(run, step, queue, level, root_id=root_id, parent_id=parent_id)
            )
        for key, of_level in messages.items():
            self.client.lpush(key, *of_level)

    def final(self, run_id: str) -> FinalRecord | None:
        """Return the final record of a run, or None if it has not ended.

        Raises:
            InvalidMessageError: this release cannot read it.
        """
        raw: Any = self.client.hget(self.keys.run(run_id), "final")
        return _decode_final_record(raw)

    def active_runs(self) -> list[str]:
        """Return the runs that have not ended, the oldest first."""
        raw: Any = self.client.zrange(self.keys.active(), 0, -1)
        return run_ids_in(raw)

    def kept_runs(self) -> list[str]:
        """Return all runs, the newest first."""
        finished: Any = self.client.zrange(self.keys.finished(), 0, -1)
        return sorted({*self.active_runs(), *run_ids_in(finished)}, reverse=True)

    def remove_wrong_types(self) -> int:
        """Remove shared keys whose Redis type is wrong. Returns how many.

        Every script would fail at such a key. Its content is lost already: another program wrote over it.
        """
        removed = 0
        for key, kind in self.keys.shared().items():
            found: Any = self.client.type(key)
            if found not in (kind.encode(), b"none"):
                removed += int(answer_of(self.client.unlink(key)))
        return removed

    def runs_in_line(self) -> list[str]:
        """Return the runs that wait for a turn (`ledger/scripts/turns.lua`), the next one first."""
        raw: Any = self.client.zrange(self.keys.turns_line(), 0, -1)
        return [run_id.decode() for run_id in raw]

    def artifacts(self, run_id: str, names: Sequence[str]) -> list[bytes | None]:
        """Return files of a run, zlib-compressed; None for a file that the run did not return."""
        raw: Any = self.client.mget([self.keys.artifact(run_id, name) for name in names])
        return [each if each is None else bytes(each) for each in raw]
