"""What one worker process keeps between steps: connections, the ledger, its leases, the engine, the runs it knows."""

from __future__ import annotations

import functools
import os
import socket
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from billiard import common as billiard_common

from workers.app import settings
from workers.contract.connection import connect
from workers.contract.events import Event
from workers.contract.keys import Keys
from workers.engine.dbt_release import release
from workers.engine.engine import Engine
from workers.engine.project.time_limits import TimeLimitError
from workers.ledger.ledger import Ledger
from workers.runs.next_step import NextStep
from workers.runs.progress import Progress
from workers.runs.run import Run, read_run
from workers.runs.sending import send_messages
from workers.runs.shared_contexts import RedisContexts
from workers.sessions.stale_lock_holders import StaleLockHolders
from workers.sessions.warehouse_lock import WarehouseLock
from workers.supervision import process_notes
from workers.supervision.lease_renewal import DRAIN, LeaseRenewer

MAX_RUNS = 32
"""How many runs a process keeps; it reads others from the ledger again."""

PATIENCE = 600.0
"""Seconds for which a result waits for a Redis server that is down. A result that is lost executes its node again."""


class Runtime:
    """The state of one worker process.

    Attributes:
        owner: the name of this process, ``host:pid``.
    """

    def __init__(self) -> None:
        url = settings.broker_url or "redis://127.0.0.1:6379/0"
        keys, lease_ms = Keys(settings.namespace), int(settings.lease_seconds * 1000)
        self.ledger = Ledger(
            connect(url, patience=PATIENCE, refusals_pass=True), keys=keys, lease_ms=lease_ms,
            result_ttl=settings.result_ttl, dbt=release(),
        )  # fmt: skip
        self.owner = f"{socket.gethostname()}:{os.getpid()}"
        self.engine = Engine(
            RedisContexts(self.ledger), worker=self.owner, contexts=settings.contexts,
            # set by the pool's handler of SIGTERM, which then raises SystemExit
            exiting=lambda: billiard_common._should_have_exited[0],  # noqa: SLF001 - public from billiard 4.3 on
        )  # fmt: skip
        self.progress = Progress(self.ledger)
        # a renewal must not wait: the renewer has to notice in time that the server does not answer
        impatient = connect(url, patience=0, timeout=settings.lease_seconds / 3)
        self.leases = LeaseRenewer(
            Ledger(impatient, keys=keys, lease_ms=lease_ms), self.engine.cancel, too_long=TimeLimitError,
            publish_node=process_notes.write_timed_node, publish_leases=process_notes.write_leases,
            renewed=process_notes.read_renewed_leases,
        )  # fmt: skip
        self.locks = WarehouseLock(self.ledger)
        self.next_step = NextStep()
        self.stale_holders = StaleLockHolders(self.ledger.client, self.ledger.keys)
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._withheld: list[Event] = []

    def run(self, run_id: str, *, begun: bool = False) -> Run | None:
        """A run, read from the ledger unless this process knows it. None for one that does not exist.

        Args:
            begun: whether the facts of its start step are needed, too.

        Raises:
            InvalidMessageError: the stored request is not one of this release.
            DbtUsageError: the caller's environment file is gone, or does not belong to this worker's stack.
        """
        run = self._runs.get(run_id)
        if run is None or run.facts is None or (begun and not run.facts.began):
            request, stored, _ = self.ledger.read(run_id)
            if request is None:
                return None
            run = read_run(request, stored)
            self._runs[run_id] = run
        self._runs.move_to_end(run_id)
        while len(self._runs) > MAX_RUNS:
            self._runs.popitem(last=False)
        return run

    def keep(self, run: Run, stored: Mapping[str, str | int | float]) -> None:
        """Keep a run whose fields `stored` this process has just written to the ledger."""
        run.store(stored)
        self._runs[run.request.run_id] = run

    def forget(self, run_id: str) -> None:
        """Read a run from the ledger the next time."""
        self._runs.pop(run_id, None)

    def emit(self, event: Event) -> None:
        """Publish an event of dbt's. Events of a step that is being handed back wait for `emit_withheld`."""
        if self.leases.why == DRAIN:
            self._withheld.append(event)
        else:
            self.progress.emit(event)

    def emit_withheld(self, *, kept: bool) -> None:
        """Publish the events that waited, where the step's result is `kept`; drop them otherwise."""
        withheld, self._withheld = self._withheld, []
        if withheld and kept:
            for event in withheld:
                self.progress.emit(event)
            self.progress.flush()

    def send(self, run_id: str, steps: Sequence[str]) -> None:
        """Send the messages of steps that the ledger handed out, except of one that this process executes next
        (`sending.send_messages`, `next_step`)."""
        send_messages(self.ledger, run_id, self.next_step.keep(run_id, steps))


_making = threading.Lock()


@functools.cache
def _created_runtime() -> Runtime:
    return Runtime()


def process_runtime() -> Runtime:
    """This process's runtime. It is created at the first call, so after the pool has forked."""
    with _making:
        return _created_runtime()
