"""Submit, watch, read and stop runs. Knows Redis and the contract; no dbt, and of Celery its wire format only
(`contract.task_message`), so that it starts quickly."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import redis

from producer.connection_errors import reaching
from workers.contract.connection import connect
from workers.contract.errors import (
    BrokerUnavailableError,
    Category,
    ErrorInfo,
    InvalidMessageError,
    RelayError,
)
from workers.contract.events import LINE, MISSING, RUN, STATE, STDERR, Event, decode_event
from workers.contract.keys import Keys, submitted_at
from workers.contract.messages import RunRequest
from workers.contract.redis_values import number_of, text_of, value_of
from workers.contract.results import RUN_TERMINAL, DbtResult
from workers.contract.run_store import RESULT_TTL, FinalRecord, RunStore
from workers.contract.settings import Settings

if TYPE_CHECKING:
    from workers.contract.purge import Purged

Record = tuple[RunRequest, FinalRecord, dict[str, str]]
"""What is kept of a run that has ended: its request, its final record, and the other fields of its hash."""

_BLOCK_MS = 2000
_STALE_SECONDS = 30.0
UNREADABLE = "unreadable"
"""The state that is shown of a run whose request or result this release cannot read."""


@dataclass
class Said:
    """What the events of a run say to its caller.

    Attributes:
        lines: of stdout, without newlines.
        errors: of stderr, without newlines.
        missing: warnings of events that are no longer kept.
    """

    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Add the next event."""
        if event.kind == LINE:
            (self.errors if event.stream == STDERR else self.lines).append(event.text)
        elif event.state == MISSING:
            self.missing.append(event.text)


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a list. Times are seconds since the epoch, UTC."""

    run_id: str
    state: str
    command: str
    submitted_at: float
    done: int
    total: int

    @classmethod
    def of(cls, request: RunRequest, facts: Mapping[str, str]) -> RunSummary:
        """The summary of a run from its request and the fields of its hash."""
        from producer.dbt_cli.vars import shown_args

        return cls(
            run_id=request.run_id, state=facts.get("state", ""), command=" ".join(shown_args(request.args)),
            submitted_at=request.submitted_at, done=int(number_of(facts.get("done"))),
            total=int(number_of(facts.get("total"))),
        )  # fmt: skip


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that said hello in the last half minute.

    Attributes:
        name: as Celery calls it, ``celery@host``.
        dbt: its release of dbt-core; empty where the worker does not tell.
        adapters: its adapters by name, each with its release.
        draining: whether it is stopping and takes nothing further.
        children: process ids of its pool.
    """

    host: str
    pid: int
    processes: int
    version: str
    queue: str
    since: float
    seen: float
    name: str = ""
    draining: bool = False
    children: tuple[int, ...] = ()
    dbt: str = ""
    adapters: dict[str, str] = {}

    @property
    def place(self) -> str:
        """``host:pid``, with Celery's name of the worker."""
        return f"{self.host}:{self.pid}" + (f" ({self.name})" if self.name else "")

    @property
    def installed(self) -> str:
        """``dbt-core 1.11.16, duckdb 1.11.1``."""
        if not self.dbt:
            return "does not tell its dbt"
        return ", ".join(
            [f"dbt-core {self.dbt}", *(f"{name} {release}" for name, release in self.adapters.items())]
        )


class RelayClient:
    """A producer's connection. Safe to use from several threads."""

    def __init__(
        self, broker_url: str, *, namespace: str | None = None, queue: str | None = None,
        patience: float = 5.0, away: float = 120.0, timeout: float = 30.0,
    ) -> None:  # fmt: skip
        """
        Args:
            broker_url: Redis, in Celery's or redis-py's form.
            patience: seconds that a call rides out a server that cannot be reached.
            away: seconds, beyond that, for which a watch goes on without the server.
            timeout: seconds that one try waits for an answer.
        """
        self.broker_url = broker_url
        self.queue = queue or Settings().queue
        self.away = away
        self.store = RunStore(connect(broker_url, patience=patience, timeout=timeout), keys=Keys(namespace))

    # -- submitting --------------------------------------------------------------------------------

    def submit(self, request: RunRequest) -> str:
        """Record a run and send its first message; the run id.

        Raises:
            BrokerUnavailableError: Redis cannot be reached; nothing was queued.
        """
        with reaching(self.broker_url, " nothing was queued"):
            step = self.store.submit(request)
        self._send(request.run_id, (step,))
        return request.run_id

    def _send(self, run_id: str, steps: Sequence[str]) -> None:
        """`publish`; what cannot be sent is recorded, and a worker's reaper sends it."""
        with contextlib.suppress(BrokerUnavailableError), reaching(self.broker_url):
            self.publish(run_id, steps)

    def publish(self, run_id: str, steps: Sequence[str]) -> None:
        """Send the messages of steps."""
        self.store.publish(run_id, steps, self.queue)

    def cancel(self, run_id: str, reason: str = "cancelled") -> bool:
        """Stop a run; whether it was still going."""
        with reaching(self.broker_url):
            state, steps = self.store.cancel(run_id, reason)
        self._send(run_id, steps)
        return state == "active"

    def state(self, run_id: str) -> str | None:
        """The state of a run (`contract.results`), or None when there is no such run (any more)."""
        with reaching(self.broker_url):
            return self.store.fact(run_id, "state")

    def purge(
        self,
        *,
        older_than: float | None = None,
        named: Sequence[str] | None = None,
        force: bool = False,
        wait: float = 15.0,
    ) -> Purged:
        """Remove ended runs before their time, and what dead workers left.

        Args:
            older_than: seconds since a run's end from which on it is removed; None: none is.
            named: these runs alone, whatever their age.
            force: named runs that are still going too: they are cancelled, and removed when they ended
                or `wait` seconds later.

        Raises:
            BrokerUnavailableError: Redis cannot be reached.
        """
        from workers.contract.purge import purge

        with reaching(self.broker_url):
            if force:
                self._cancel_and_wait(named or (), wait)
            return purge(self.store, older_than=older_than, named=named, force=force)

    def _cancel_and_wait(self, run_ids: Sequence[str], wait: float) -> None:
        for run_id in run_ids:
            self.cancel(run_id, "purged")
        deadline = time.monotonic() + wait
        while set(run_ids) & set(self.store.active_runs()) and time.monotonic() < deadline:
            time.sleep(0.1)

    def retry(self, run_id: str, args: Sequence[str] = ("retry",)) -> str:
        """Submit what failed and was skipped in a run once more, as ``dbt retry`` would; the new run's id.

        Values that the earlier run had of its caller's environment are taken from this process's.

        Args:
            args: dbt's command line of the retry, such as ``["retry", "--threads", "8"]``.

        Raises:
            RelayError: there is no such run (any more).
            DbtUsageError: it is still going, or it cannot be retried.
            BrokerUnavailableError: Redis cannot be reached; nothing was queued.
        """
        from producer.retry_run import with_environment

        request = self.retry_request(run_id, args)
        with reaching(self.broker_url):
            request = with_environment(self.store, request, os.environ)
        return self.submit(request)

    def retry_request(self, run_id: str, args: Sequence[str] = ("retry",)) -> RunRequest:
        """What `retry` submits; its environment may be in a file that is gone. Raises what `retry` does."""
        from producer.retry_run import retry_request

        with reaching(self.broker_url):
            return retry_request(self.store, run_id, args)

    # -- watching ----------------------------------------------------------------------------------

    def watch(
        self,
        run_id: str,
        *,
        from_start: bool = True,
        timeout: float | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> Iterator[Event]:
        """Every event of a run, in order, until its last. An event whose state is ``missing`` stands for those
        that Redis no longer keeps, because the run published more of them than the stream holds.

        Args:
            from_start: from the first event on (replayed), or only what comes from now on.
            timeout: seconds to watch at most.
            on_idle: called every other second or so in which nothing was said.

        Raises:
            RelayError: there is no such run.
            TimeoutError: the run did not end in `timeout` seconds.
            BrokerUnavailableError: Redis cannot be reached.
        """
        with reaching(self.broker_url):
            if self.store.fact(run_id, "state") is None:
                raise no_such_run(run_id)
        deadline = None if timeout is None else time.monotonic() + timeout
        position = b"0" if from_start else b"$"
        expected = 1 if from_start else 0
        reached = time.monotonic()
        while True:
            try:
                entries = self._read(run_id, position)
                reached = time.monotonic()
            except BrokerUnavailableError:
                entries = []
                if time.monotonic() - reached > self.away:
                    raise
            if not entries:
                if entries is None:
                    return
                _check_deadline(run_id, deadline, timeout)
                if on_idle is not None:
                    on_idle()
                continue
            for entry, fields in entries:
                position = entry
                event = _event_in(fields)
                if event is None:  # not ours, and it has no place among ours
                    continue
                if expected and event.seq > expected:
                    yield _missing(run_id, expected, event.seq - 1)
                expected = event.seq + 1
                yield event
                if event.kind == RUN and event.state in RUN_TERMINAL:
                    return
            _check_deadline(run_id, deadline, timeout)

    def _read(self, run_id: str, position: bytes) -> list[tuple[bytes, dict[bytes, bytes]]] | None:
        """Entries of a run's stream, awaited for a while; None where it has ended and says no more."""
        with reaching(self.broker_url):
            answer: Any = self.store.client.xread(
                {self.store.keys.events(run_id): position}, count=1000, block=_BLOCK_MS
            )
            state = None if answer else self.store.fact(run_id, "state")
        if answer:
            return list(answer[0][1])
        return None if state is None or state in RUN_TERMINAL else []

    def result(self, run_id: str, *, timeout: float | None = None) -> DbtResult:
        """Wait for a run to end and give its result, with every line it said.

        Raises:
            as `watch`.
        """
        said = Said()
        for event in self.watch(run_id, timeout=timeout):
            said.take(event)
        return result_of(*self.record(run_id), said.lines, said.errors, said.missing)

    def collect(self, run_id: str, lines: Sequence[str], errors: Sequence[str] = ()) -> DbtResult:
        """The result of a run that has ended, with lines that were watched.

        Raises:
            RelayError: the run has not ended, or is no longer kept.
        """
        return result_of(*self.record(run_id), lines, errors)

    def record(self, run_id: str) -> Record:
        """What is kept of a run that has ended. Raises what `collect` does."""
        with reaching(self.broker_url):
            request, facts, last = self.store.read(run_id)
        if last is None or request is None:
            raise no_such_run(run_id)
        return request, last, facts

    def fields(self, run_id: str) -> dict[str, str]:
        """Every field of a run's hash: what `collect` makes a result of. Raises BrokerUnavailableError."""
        with reaching(self.broker_url):
            raw: Any = self.store.client.hgetall(self.store.keys.run(run_id))
        return {name.decode(): value.decode() for name, value in raw.items()}

    def restore(self, run_id: str, fields: Mapping[str, str]) -> None:
        """Put back the hash of a run that ended elsewhere (`fields`), for an hour, so that it can be retried.

        Raises:
            BrokerUnavailableError: Redis cannot be reached.
        """
        key = self.store.keys.run(run_id)
        mapping: dict[Any, Any] = dict(fields)
        with reaching(self.broker_url), self.store.client.pipeline() as pipe:
            pipe.hset(key, mapping=mapping)
            pipe.expire(key, 3600)
            pipe.execute()

    def artifact(self, run_id: str, name: str) -> bytes | None:
        """A file that dbt left in the target folder, compressed (zlib), where the run returned one."""
        return self.artifacts(run_id, [name]).get(name)

    def artifacts(self, run_id: str, names: Sequence[str]) -> dict[str, bytes]:
        """Those of the files that the run returned, as `artifact` gives them."""
        with reaching(self.broker_url):
            found = self.store.artifacts(run_id, names)
        return {name: packed for name, packed in zip(names, found, strict=True) if packed is not None}

    # -- dbt's log file ----------------------------------------------------------------------------

    def read_log(self, run_id: str, position: bytes) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Entries of a run's log stream after a position, awaited for two seconds; those before it are removed.

        Raises:
            BrokerUnavailableError: Redis cannot be reached.
        """
        key = self.store.keys.log(run_id)
        with reaching(self.broker_url):
            if position != b"0":
                self.store.client.xtrim(key, minid=position, approximate=False)
            answer: Any = self.store.client.xread({key: position}, count=100, block=_BLOCK_MS)
        return list(answer[0][1]) if answer else []

    def end_log(self, run_id: str) -> int:
        """Mark the end of a run's log stream; how many entries were dropped because nobody had read earlier ones.

        Raises:
            BrokerUnavailableError: Redis cannot be reached.
        """
        with reaching(self.broker_url), self.store.client.pipeline(transaction=False) as pipe:
            pipe.xadd(self.store.keys.log(run_id), {"end": 1})
            pipe.expire(self.store.keys.log(run_id), 3600)
            pipe.hget(self.store.keys.run(run_id), "log_dropped")
            return int(pipe.execute()[-1] or 0)

    def remove_log(self, run_id: str) -> None:
        """Remove a run's log stream. Raises BrokerUnavailableError when Redis cannot be reached."""
        with reaching(self.broker_url):
            self.store.client.unlink(self.store.keys.log(run_id))

    # -- listing -----------------------------------------------------------------------------------

    def runs(self) -> list[RunSummary]:
        """Unfinished and finished runs that are still kept, the newest first."""
        with reaching(self.broker_url):
            found = [self._summary(run_id) for run_id in self.store.kept_runs()]
        known = [summary for summary in found if summary is not None]
        # ids begin with the second of the submission, and go on at random
        return sorted(known, key=lambda run: (submitted_at(run.run_id), run.submitted_at), reverse=True)

    def _summary(self, run_id: str) -> RunSummary | None:
        try:
            request, facts, _ = self.store.read(run_id)
        except (InvalidMessageError, redis.ResponseError) as error:
            return RunSummary(
                run_id=run_id, state=UNREADABLE, command=f"({error})", submitted_at=submitted_at(run_id),
                done=0, total=0,
            )  # fmt: skip
        return None if request is None else RunSummary.of(request, facts)

    def waiting_runs(self) -> list[str]:
        """Ids of the runs that wait until runs before them give their turn up, the next one first."""
        with reaching(self.broker_url):
            return self.store.runs_in_line()

    def workers(self) -> list[WorkerInfo]:
        """Workers that said hello lately."""
        with reaching(self.broker_url):
            raw: Any = self.store.client.hgetall(self.store.keys.workers())
            now: Any = self.store.client.time()
        infos = (value_of(value, WorkerInfo) for value in raw.values())
        return [info for info in infos if info is not None and int(now[0]) - info.seen < _STALE_SECONDS]

    def command_line(self, release: str) -> dict[str, Any] | None:
        """What workers published of the command line of a dbt release (`contract.command_line`), if they did."""
        from workers.contract.command_line import MAX_PACKED_BYTES, unpack

        with reaching(self.broker_url):
            packed: Any = self.store.client.getrange(
                self.store.keys.command_line(release), 0, MAX_PACKED_BYTES
            )
        return unpack(bytes(packed))

    def refused(self) -> dict[str, int]:
        """How many messages workers refused, by reason, the most frequent first."""
        with reaching(self.broker_url):
            raw: Any = self.store.client.hgetall(self.store.keys.rejected())
        counts = {text_of(reason): int(number_of(times)) for reason, times in raw.items()}
        return dict(sorted(counts.items(), key=lambda each: -each[1]))


def _event_in(fields: Mapping[bytes, bytes]) -> Event | None:
    try:
        return decode_event(fields.get(b"e", b""), seq=int(number_of(fields.get(b"s"))))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _check_deadline(run_id: str, deadline: float | None, timeout: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError(f"run {run_id} did not end in {timeout:.0f} s")


def _missing(run_id: str, first: int, last: int) -> Event:
    text = (
        f"events {first} to {last} of run {run_id} are no longer kept, and lines with them: the run published more "
        "than Redis holds before they were read. Its result is complete"
    )
    return Event(kind=STATE, run_id=run_id, state=MISSING, text=text, level="warn", seq=last)


def result_of(
    request: RunRequest,
    last: FinalRecord,
    facts: Mapping[str, str],
    lines: Sequence[str],
    errors: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> DbtResult:
    """A run's result as callers see it, with its lines of stdout and of stderr, and warnings of lines that are
    missing."""
    warnings = (*last.warnings, *missing)
    failure = [] if last.error is None or last.return_code == 0 else [last.error.message]
    ended, created = number_of(facts.get("ended")), number_of(facts.get("created"))
    return DbtResult(
        success=last.return_code == 0,
        stdout="".join(f"{line}\n" for line in lines),
        stderr="".join(f"{line}\n" for line in errors) + "\n".join([*failure, *warnings]),
        execution_time=max(0.0, ended - created),
        return_code=last.return_code,
        command=["dbt", *request.args],
        run_id=request.run_id,
        nodes=tuple(last.nodes),
        error=last.error if last.return_code else None,
        run_results=last.run_results,
        attempts=tuple(last.attempts),
        warnings=warnings,
    )


def no_such_run(run_id: str) -> RelayError:
    """The error for a run that is not, or no longer, known."""
    code, message = "no_such_run", f"there is no run {run_id} (results are kept for a day by default)"
    began = submitted_at(run_id)
    if began and time.time() - began > RESULT_TTL:
        day = time.strftime("%Y-%m-%d %H:%M", time.gmtime(began))
        code = "run_expired"
        message = f"run {run_id} of {day} UTC is no longer kept (DBT_RELAY_RESULT_TTL, a day by default)"
    return RelayError(
        message,
        ErrorInfo(
            code=code, category=Category.USAGE.value, error_class="RelayError", message=message,
            suggested_fix="`dbt-relay runs` lists the runs that are known.",
        ),
    )  # fmt: skip
