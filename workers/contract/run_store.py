"""What producers may do with a run's state in Redis: record it, read it, stop it.

The scripts are the ledger's (`workers/ledger/scripts`); `workers.ledger.ledger` adds what only workers may do.
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
"""Runs whose priority is remembered."""


ENV_NAMES: Final = "env_names"
"""Field of an ended run's hash: JSON list of the names whose values its caller's environment contributed."""


class FinalRecord(msgspec.Struct, kw_only=True):
    """A run's last word."""

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
    """A list from a script; Lua's empty table is an object in JSON."""
    return tuple(value) if isinstance(value, list) else ()


def run_ids_in(raw: Iterable[bytes]) -> list[str]:
    """Those of some stored texts that are run ids."""
    return [run_id for run_id in map(text_of, raw) if is_run_id(run_id)]


def answer_of(value: Any) -> Any:
    """redis-py types every answer as perhaps awaitable."""
    return value


def _facts_in(raw: dict[bytes, bytes]) -> dict[str, str]:
    return {text_of(key): text_of(value) for key, value in raw.items() if key not in (b"request", b"final")}


def _last_word_in(raw: bytes | None) -> FinalRecord | None:
    """The last word as it is stored.

    Raises:
        InvalidMessageError: it is not one of this release.
    """
    if raw is None:
        return None
    last = value_of(raw, FinalRecord)
    if last is None:
        raise InvalidMessageError("the stored result of the run is not readable")
    return last


class RunStore:
    """Runs in Redis, over one connection pool. Safe to use from several threads."""

    def __init__(self, client: redis.Redis, *, keys: Keys | None = None) -> None:
        self.client = client
        self.keys = keys or Keys()
        self._scripts: dict[str, Any] = {}
        self._priorities: dict[str, int] = {}

    def call(self, name: str, run_id: str, *args: Any, pipe: Any = None) -> Any:
        """Run a script on a run's keys, or add it to a pipeline."""
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
        """Run a script that answers JSON."""
        decoded: dict[str, Any] = msgspec.json.decode(self.call(name, run_id, *args))
        return decoded

    def submit(self, request: RunRequest) -> str:
        """Record a run; its first step is returned, to be published. Submitting it again is a no-op.

        Raises:
            InvalidMessageError: workers would refuse the request; nothing was recorded.
        """
        body = encode_request(request)
        decode_request(body)
        planned = request.first_word in NODE_COMMANDS or request.retry_of is not None
        step = STEP_PLAN if planned else STEP_COMMAND
        self._note_priority(request.run_id, request.priority)
        self.call(
            "submit", request.run_id, body, step, request.priority,
            f"{request.limits.deadline:.15g}",
        )  # fmt: skip
        return step

    def cancel(self, run_id: str, reason: str = "cancelled") -> tuple[str, tuple[str, ...]]:
        """Stop a run: queued nodes at once, running ones at their next beat.

        Returns:
            the state it was in (``unknown`` when there is no such run), and the steps to publish.
        """
        answer = self.call_json("cancel", run_id, reason)
        return str(answer["state"]), steps_of(answer["publish"])

    def request(self, run_id: str) -> RunRequest | None:
        """The request of a run, or None when there is no such run (any more).

        Raises:
            InvalidMessageError: what is stored is not a request of this release.
        """
        raw: Any = self.client.hget(self.keys.run(run_id), "request")
        return None if raw is None else decode_request(raw)

    def read(self, run_id: str) -> tuple[RunRequest | None, dict[str, str], FinalRecord | None]:
        """`request`, `facts` and `final` of a run, as they are at one moment. Raises what `request` does."""
        raw: Any = self.client.hgetall(self.keys.run(run_id))
        request, final = raw.get(b"request"), raw.get(b"final")
        return (
            None if request is None else decode_request(request),
            _facts_in(raw),
            _last_word_in(final),
        )

    def facts(self, run_id: str) -> dict[str, str]:
        """Every field of the run's hash but the request and the result: state, counters, the plan's facts."""
        return _facts_in(answer_of(self.client.hgetall(self.keys.run(run_id))))

    def fact(self, run_id: str, name: str) -> str | None:
        """One field of the run's hash."""
        raw: Any = self.client.hget(self.keys.run(run_id), name)
        return None if raw is None else text_of(raw)

    def server_time(self) -> float:
        """Redis' clock, seconds since the epoch."""
        seconds, micros = answer_of(self.client.time())
        return int(seconds) + int(micros) / 1e6

    def priority(self, run_id: str) -> int:
        """Of the run's messages (`RunRequest.priority`), which never changes; 0 for a run that is not known."""
        known = self._priorities.get(run_id)
        if known is None:
            said = self.fact(run_id, "priority")
            if said is None:
                return 0
            known = int(number_of(said))
            self._note_priority(run_id, known)
        return known

    def _note_priority(self, run_id: str, priority: int) -> None:
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
        """Send the messages of steps, those of one priority in one command.

        Written here and not by Celery, whose way costs a worker several times what the ledger's moves do
        (a connection from its pool, an event that the message was sent).

        Args:
            root_id, parent_id: of the Celery task that sends them.

        Raises:
            redis.RedisError: some may have been sent.
        """
        messages: dict[str, list[bytes]] = {}
        for entry in steps:
            run, step = addressed(run_id, entry)
            level = self.priority(run)
            messages.setdefault(queue_key(queue, level), []).append(
                task_message(run, step, queue, level, root_id=root_id, parent_id=parent_id)
            )
        for key, together in messages.items():
            self.client.lpush(key, *together)

    def final(self, run_id: str) -> FinalRecord | None:
        """A run's last word, once it has ended.

        Raises:
            InvalidMessageError: what is stored is not one.
        """
        raw: Any = self.client.hget(self.keys.run(run_id), "final")
        return _last_word_in(raw)

    def active_runs(self) -> list[str]:
        """Unfinished runs, oldest first."""
        raw: Any = self.client.zrange(self.keys.active(), 0, -1)
        return run_ids_in(raw)

    def kept_runs(self) -> list[str]:
        """Unfinished and ended runs, the newest first."""
        finished: Any = self.client.zrange(self.keys.finished(), 0, -1)
        return sorted({*self.active_runs(), *run_ids_in(finished)}, reverse=True)

    def remove_wrong_types(self) -> int:
        """Remove keys that all runs share and that have another Redis type than ours; how many.

        Every script would fail at them, for everybody. What was in them is lost already: the key was written over.
        """
        removed = 0
        for key, kind in self.keys.shared().items():
            found: Any = self.client.type(key)
            if found not in (kind.encode(), b"none"):
                removed += int(answer_of(self.client.unlink(key)))
        return removed

    def runs_in_line(self) -> list[str]:
        """Unfinished runs that wait for their turn (`ledger/scripts/turns.lua`), the next one first."""
        raw: Any = self.client.zrange(self.keys.turns_line(), 0, -1)
        return [run_id.decode() for run_id in raw]

    def artifacts(self, run_id: str, names: Sequence[str]) -> list[bytes | None]:
        """Files of a run, compressed, where the run returned them."""
        raw: Any = self.client.mget([self.keys.artifact(run_id, name) for name in names])
        return [each if each is None else bytes(each) for each in raw]
