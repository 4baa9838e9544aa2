"""RelayClient: submits, watches, reads and stops runs through Redis.

Imports neither dbt nor Celery: `workers.contract.task_message` writes Celery's wire format.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import redis

from producer.client.broker_errors import BrokerErrors
from producer.client.results import ConsoleLines, Record, no_such_run, result_of
from producer.client.summaries import UNREADABLE, RunSummary, WorkerInfo
from producer.client.watch import BLOCK_MS, Entries, Watch
from workers.contract.connection import connect
from workers.contract.errors import BrokerUnavailableError, InvalidMessageError
from workers.contract.events import Event
from workers.contract.keys import Keys, submitted_at
from workers.contract.messages import RunRequest
from workers.contract.redis_values import number_of, text_of, value_of
from workers.contract.results import DbtResult
from workers.contract.run_store import RunStore
from workers.contract.settings import Settings

if TYPE_CHECKING:
    from workers.contract.purge import Purged

_REGISTRATION_SECONDS = 30.0
"""A worker that has not renewed its registration for so long is not listed."""

_RESTORED_SECONDS = 3600
_LOG_SECONDS = 3600
"""How long Redis keeps a restored run, and the log stream of a run that has ended."""


class RelayClient:
    """A producer's connection to Redis. Safe to use from several threads.

    Every method but `publish` raises BrokerUnavailableError when Redis cannot be reached.
    """

    def __init__(
        self, broker_url: str, *, namespace: str | None = None, queue: str | None = None,
        patience: float = 5.0, away: float = 120.0, timeout: float = 30.0,
    ) -> None:  # fmt: skip
        """
        Args:
            broker_url: URL of Redis, in Celery's or redis-py's form.
            namespace: first part of every Redis key; default ``DBT_RELAY_NAMESPACE``.
            queue: Celery queue that messages go to; default ``dbt-relay``.
            patience: seconds for which a call retries while Redis cannot be reached.
            away: further seconds for which a watch goes on without Redis.
            timeout: seconds that one try waits for an answer.
        """
        self.broker_url = broker_url
        self.queue = queue or Settings().queue
        self.away = away
        self.store = RunStore(connect(broker_url, patience=patience, timeout=timeout), keys=Keys(namespace))

    # -- submitting --------------------------------------------------------------------------------

    def submit(self, request: RunRequest) -> str:
        """Record a run, send its first message, and return its id.

        Raises:
            BrokerUnavailableError: Redis cannot be reached; nothing was queued.
        """
        with BrokerErrors(self.broker_url, " nothing was queued"):
            step = self.store.submit(request)
        self._send(request.run_id, (step,))
        return request.run_id

    def _send(self, run_id: str, steps: Sequence[str]) -> None:
        """`publish`, without an error: the ledger lists unsent messages, and a worker's reaper sends them."""
        with contextlib.suppress(BrokerUnavailableError), BrokerErrors(self.broker_url):
            self.publish(run_id, steps)

    def publish(self, run_id: str, steps: Sequence[str]) -> None:
        """Send the Celery messages of steps of a run. Raises redis-py's errors."""
        self.store.publish(run_id, steps, self.queue)

    def cancel(self, run_id: str, reason: str = "cancelled") -> bool:
        """Stop a run. Returns whether it was active until now."""
        with BrokerErrors(self.broker_url):
            state, steps = self.store.cancel(run_id, reason)
        self._send(run_id, steps)
        return state == "active"

    def state(self, run_id: str) -> str | None:
        """Return the state of a run (see `workers.contract.results`); None when Redis does not know the run."""
        with BrokerErrors(self.broker_url):
            return self.store.fact(run_id, "state")

    def purge(
        self,
        *,
        older_than: float | None = None,
        named: Sequence[str] | None = None,
        force: bool = False,
        wait: float = 15.0,
    ) -> Purged:
        """Remove ended runs before they expire, and keys that dead workers left.

        Args:
            older_than: remove runs that ended at least so many seconds ago; None removes no ended run.
            named: remove only these runs, regardless of their age.
            force: cancel named runs that are active, and remove them when they have ended or after `wait` seconds.
            wait: seconds.
        """
        from workers.contract.purge import purge

        with BrokerErrors(self.broker_url):
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
        """Submit the failed and skipped nodes of a run again, as ``dbt retry`` would, and return the new run's id.

        Environment values that the earlier run used are read from this process's environment.

        Args:
            args: dbt's command line of the retry, such as ``["retry", "--threads", "8"]``.

        Raises:
            RelayError: Redis does not know the run, or no longer keeps it.
            DbtUsageError: the run is active, or cannot be retried.
            BrokerUnavailableError: Redis cannot be reached; nothing was queued.
        """
        from producer.client.retry import with_environment

        request = self.retry_request(run_id, args)
        with BrokerErrors(self.broker_url):
            request = with_environment(self.store, request, os.environ)
        return self.submit(request)

    def retry_request(self, run_id: str, args: Sequence[str] = ("retry",)) -> RunRequest:
        """Return the request that `retry` submits, without environment values. Raises as `retry` does."""
        from producer.client.retry import retry_request

        with BrokerErrors(self.broker_url):
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
        """Yield every event of a run in order, until its last.

        An event with the state ``missing`` stands for events that Redis no longer keeps, because the run published
        more than its stream holds.

        Args:
            from_start: replay the events from the first one on; otherwise only new ones.
            timeout: seconds to watch at most.
            on_idle: called after each two seconds without an event.

        Raises:
            RelayError: Redis does not know the run.
            TimeoutError: the run did not end in `timeout` seconds.
        """
        watch = Watch(self.store, self.broker_url, run_id, away=self.away)
        return watch.events(from_start=from_start, timeout=timeout, on_idle=on_idle)

    def result(self, run_id: str, *, timeout: float | None = None) -> DbtResult:
        """Wait for a run to end and return its result, console lines included.

        Args:
            timeout: seconds.

        Raises:
            as `watch`.
        """
        console = ConsoleLines()
        for event in self.watch(run_id, timeout=timeout):
            console.add(event)
        request, last, facts = self.record(run_id)
        return result_of(request, last, facts, console)

    def collect(self, run_id: str, lines: Sequence[str], errors: Sequence[str] = ()) -> DbtResult:
        """Return the result of a run that has ended, with console lines that the caller has collected.

        Args:
            lines: of stdout.
            errors: of stderr.

        Raises:
            RelayError: the run has not ended, or Redis no longer keeps it.
        """
        request, last, facts = self.record(run_id)
        return result_of(request, last, facts, ConsoleLines(list(lines), list(errors)))

    def record(self, run_id: str) -> Record:
        """Return what Redis keeps of a run that has ended. Raises as `collect` does."""
        with BrokerErrors(self.broker_url):
            request, facts, last = self.store.read(run_id)
        if last is None or request is None:
            raise no_such_run(run_id)
        return request, last, facts

    def fields(self, run_id: str) -> dict[str, str]:
        """Return every field of a run's hash: the source of its result."""
        with BrokerErrors(self.broker_url):
            raw: Any = self.store.client.hgetall(self.store.keys.run(run_id))
        return {name.decode(): value.decode() for name, value in raw.items()}

    def restore(self, run_id: str, fields: Mapping[str, str]) -> None:
        """Write the hash of a run that ended on another Redis, for an hour, so that it can be retried.

        Args:
            fields: what `fields` returned there.
        """
        key = self.store.keys.run(run_id)
        mapping: dict[Any, Any] = dict(fields)
        with BrokerErrors(self.broker_url), self.store.client.pipeline() as pipe:
            pipe.hset(key, mapping=mapping)
            pipe.expire(key, _RESTORED_SECONDS)
            pipe.execute()

    def artifact(self, run_id: str, name: str) -> bytes | None:
        """Return a file of dbt's target folder, compressed with zlib; None where the run did not return it."""
        return self.artifacts(run_id, [name]).get(name)

    def artifacts(self, run_id: str, names: Sequence[str]) -> dict[str, bytes]:
        """Return several files as `artifact` does, without those that the run did not return."""
        with BrokerErrors(self.broker_url):
            found = self.store.artifacts(run_id, names)
        return {name: packed for name, packed in zip(names, found, strict=True) if packed is not None}

    # -- dbt's log file ----------------------------------------------------------------------------

    def read_log(self, run_id: str, position: bytes) -> Entries:
        """Wait two seconds for entries of a run's log stream after `position`, and remove those before it."""
        key = self.store.keys.log(run_id)
        with BrokerErrors(self.broker_url):
            if position != b"0":
                self.store.client.xtrim(key, minid=position, approximate=False)
            answer: Any = self.store.client.xread({key: position}, count=100, block=BLOCK_MS)
        return list(answer[0][1]) if answer else []

    def end_log(self, run_id: str) -> int:
        """Mark the end of a run's log stream. Returns how many entries workers dropped because the stream was full."""
        with BrokerErrors(self.broker_url), self.store.client.pipeline(transaction=False) as pipe:
            pipe.xadd(self.store.keys.log(run_id), {"end": 1})
            pipe.expire(self.store.keys.log(run_id), _LOG_SECONDS)
            pipe.hget(self.store.keys.run(run_id), "log_dropped")
            return int(pipe.execute()[-1] or 0)

    def remove_log(self, run_id: str) -> None:
        """Remove a run's log stream."""
        with BrokerErrors(self.broker_url):
            self.store.client.unlink(self.store.keys.log(run_id))

    # -- listing -----------------------------------------------------------------------------------

    def runs(self) -> list[RunSummary]:
        """List active and ended runs that Redis keeps, the newest first."""
        with BrokerErrors(self.broker_url):
            found = [self._summary(run_id) for run_id in self.store.kept_runs()]
        known = [summary for summary in found if summary is not None]
        # an id begins with the second of its submission; the rest is random
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
        """List the ids of runs that wait for their turn, the next one first."""
        with BrokerErrors(self.broker_url):
            return self.store.runs_in_line()

    def workers(self) -> list[WorkerInfo]:
        """List the workers that renewed their registration in the last half minute."""
        with BrokerErrors(self.broker_url):
            raw: Any = self.store.client.hgetall(self.store.keys.workers())
            now: Any = self.store.client.time()
        infos = (value_of(value, WorkerInfo) for value in raw.values())
        return [
            info for info in infos if info is not None and int(now[0]) - info.seen < _REGISTRATION_SECONDS
        ]

    def command_line(self, release: str) -> dict[str, Any] | None:
        """Return the commands and options of a dbt release, as its workers published them
        (`workers.contract.command_line`); None where no worker has."""
        from workers.contract.command_line import MAX_PACKED_BYTES, unpack

        with BrokerErrors(self.broker_url):
            packed: Any = self.store.client.getrange(
                self.store.keys.command_line(release), 0, MAX_PACKED_BYTES
            )
        return unpack(bytes(packed))

    def refused(self) -> dict[str, int]:
        """Count the messages that workers refused, by reason, the most frequent first."""
        with BrokerErrors(self.broker_url):
            raw: Any = self.store.client.hgetall(self.store.keys.rejected())
        counts = {text_of(reason): int(number_of(times)) for reason, times in raw.items()}
        return dict(sorted(counts.items(), key=lambda each: -each[1]))
