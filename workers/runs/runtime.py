"""What one worker process holds: connections, the ledger, the heart, the engine, runs it knows."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import msgspec
import redis
from billiard import common as billiard_common
from billiard.process import current_process
from celery import current_task

from workers.app import settings
from workers.contract.connection import connect
from workers.contract.environment import CALLERS, Withheld, allowed, withheld_by
from workers.contract.events import Event
from workers.contract.keys import Keys
from workers.contract.log import log
from workers.contract.messages import RunRequest
from workers.contract.process_attributes import decode_process_attributes
from workers.engine.caller.invocation import dbt_environment
from workers.engine.dbt_release import release
from workers.engine.engine import Engine
from workers.engine.interface import RunFacts, RunSpec
from workers.engine.project.time_limits import TimeLimitError
from workers.ledger.ledger import Ledger
from workers.runs import env_file
from workers.runs.local_paths import paths_here
from workers.runs.next_step import NextStep
from workers.runs.progress import Progress
from workers.sessions.stale_lock_holders import StaleLockHolders
from workers.sessions.warehouse_lock import WarehouseLock
from workers.supervision.child_lease_renewal import (
    HeldLeases,
    Lease,
    decode_leases,
    held_leases,
    renewed_leases,
)
from workers.supervision.lease_renewal import DRAIN, LeaseRenewer
from workers.supervision.shared_table import timed_nodes
from workers.supervision.time_limit_enforcement import TimedNode

CONTEXT_TTL = 7 * 24 * 3600
MAX_RUNS = 32
PATIENCE = 600.0
"""Seconds that a result waits for a server that is away: losing it would mean to execute its node again."""


class Run(msgspec.Struct, kw_only=True):
    """A run as this process knows it; `facts` once it was planned, `checked` once the project was found to be here."""

    request: RunRequest
    spec: RunSpec
    facts: RunFacts | None = None
    lock: str | None = None
    whole: bool = False
    checked: bool = False


class RedisContexts:
    """Packed manifests in Redis, for the other processes (`engine.interface.SharedContexts`)."""

    def __init__(self, ledger: Ledger) -> None:
        self._client, self._keys = ledger.client, ledger.keys

    def load(self, key: str) -> bytes | None:
        """The packed manifest of a context, or None."""
        return self._client.getex(self._keys.context(key), ex=CONTEXT_TTL)  # type: ignore[return-value]

    def save(self, key: str, packed: bytes) -> None:
        """Keep a packed manifest for a while; a full server keeps none, and the others parse."""
        with contextlib.suppress(redis.OutOfMemoryError):
            self._client.set(self._keys.context(key), packed, ex=CONTEXT_TTL)

    def index(self, family: str) -> bytes | None:
        """What the last parse of a family read, or None."""
        return self._client.get(self._keys.context("index:" + family))  # type: ignore[return-value]

    def save_index(self, family: str, index: bytes) -> None:
        """Remember what a parse read."""
        with contextlib.suppress(redis.OutOfMemoryError):
            self._client.set(self._keys.context("index:" + family), index, ex=CONTEXT_TTL)


def _facts_in(stored: Mapping[str, str | int | float], known: RunFacts | None = None) -> RunFacts | None:
    """What the plan found, with the moment at which the run began; of what is not `stored`, what is `known`."""
    facts = msgspec.json.decode(str(stored["facts"]), type=RunFacts) if "facts" in stored else known
    if facts is not None and "began" in stored:
        facts = msgspec.structs.replace(facts, began=float(stored["began"]))
    return facts


class Runtime:
    """One process's share of the work."""

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
        # a beat that waits is no beat: the heart must know in time that the server does not answer
        impatient = connect(url, patience=0, timeout=settings.lease_seconds / 3)
        self.leases = LeaseRenewer(
            Ledger(impatient, keys=keys, lease_ms=lease_ms), self.engine.cancel, too_long=TimeLimitError,
            publish_node=_note, publish_leases=_post_leases, renewed=lambda: decode_leases(renewed_leases.read(_slot())),
        )  # fmt: skip
        self.locks = WarehouseLock(self.ledger)
        self.next_step = NextStep()
        self.strays = StaleLockHolders(self.ledger.client, self.ledger.keys)
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._late: list[Event] = []

    def run(self, run_id: str, *, begun: bool = False) -> Run | None:
        """A run, read from the ledger when this process does not know it yet.

        Args:
            begun: what its start step left is needed, too.

        Raises:
            InvalidMessageError: the stored request is not one of this release.
        """
        run = self._runs.get(run_id)
        if run is None or run.facts is None or (begun and not run.facts.began):
            request, stored, _ = self.ledger.read(run_id)
            if request is None:
                return None
            run = self._as_told(request, stored)
            self._runs[run_id] = run
        self._runs.move_to_end(run_id)
        while len(self._runs) > MAX_RUNS:
            self._runs.popitem(last=False)
        return run

    def learn(self, run: Run, stored: Mapping[str, str | int | float]) -> None:
        """Take in facts that this process has just stored of a run, as they would be read back."""
        run.facts = _facts_in(stored, run.facts)
        if "lock" in stored:
            run.lock = str(stored["lock"]) or None
        self._runs[run.request.run_id] = run

    def _as_told(self, request: RunRequest, stored: Mapping[str, str]) -> Run:
        spec = spec_of(
            request,
            invocation_id=stored.get("invocation_id", ""),
            started_at=float(stored.get("started_at", 0.0)),
        )
        return Run(
            request=request, spec=spec, facts=_facts_in(stored), lock=stored.get("lock") or None,
            whole=stored.get("whole") == "1",
        )  # fmt: skip

    def say(self, event: Event) -> None:
        """Publish what dbt says; what it says of a step that is being handed back waits for `settle`."""
        if self.leases.why == DRAIN:
            self._late.append(event)
        else:
            self.progress.emit(event)

    def settle(self, *, kept: bool) -> None:
        """Publish what waited, where the step's result is `kept`, or drop it."""
        late, self._late = self._late, []
        for event in late if kept else ():
            self.progress.emit(event)

    def forget(self, run_id: str) -> None:
        """Read the run anew next time."""
        self._runs.pop(run_id, None)

    def publish(self, run_id: str, steps: Sequence[str]) -> None:
        """Send the messages of steps that were handed out.

        A message that cannot be sent is not an error: the ledger knows that the step is due, and the
        reaper sends it again.
        """
        publish(self.ledger, run_id, self.next_step.keep(run_id, steps))


def _slot() -> int:
    """The place of this process in the pool."""
    return int(getattr(current_process(), "index", 0))


def forget_predecessor() -> None:
    """Clear what an earlier process at the same place in the pool left in shared memory."""
    for each in (timed_nodes, held_leases, renewed_leases):
        each.clear(_slot())


def _post_leases(leases: list[Lease]) -> None:
    """Tell the parent of this process which leases to renew where this process cannot."""
    slot = _slot()
    if not leases:
        held_leases.clear(slot)
    elif not held_leases.write(slot, msgspec.msgpack.encode(HeldLeases(os.getpid(), leases))):
        held_leases.clear(slot)  # the note that is there is not true any more
        log("no room for a note: this process renews its leases alone", level=logging.DEBUG, slot=slot,
            phase="beat")  # fmt: skip


def _note(watched: TimedNode | None) -> None:
    """Tell the parent of this process what it executes."""
    slot = _slot()
    if watched is None:
        timed_nodes.clear(slot)
    elif not timed_nodes.write(slot, msgspec.json.encode(watched)):
        log("no room for a note: nobody will end this process", node=watched.claim.step, slot=slot)


def publish(ledger: Ledger, run_id: str, steps: Sequence[str]) -> None:
    """See `Runtime.publish`."""
    if not steps:
        return
    try:
        sender = current_task.request if current_task else None  # as Celery would note it
        ledger.publish(
            run_id, steps, settings.queue,
            root_id=sender and sender.root_id, parent_id=sender and sender.id,
        )  # fmt: skip
    except redis.RedisError as error:
        log("messages not sent, the reaper will", run=run_id, nodes=list(steps), error=str(error))


def spec_of(request: RunRequest, *, invocation_id: str, started_at: float) -> RunSpec:
    """What the engine is told of a request on this machine.

    Raises:
        DbtUsageError: the caller's environment file is gone, or is none of this stack's.
    """
    withheld = Withheld()
    if request.env_file:
        env = env_file.read(request.env_file, settings)
    else:
        given = allowed(request.env, settings.env_deny)  # anything that can write to Redis can send a request
        left_out = {name for name in request.env.keys() - given.keys() if not name.startswith(CALLERS)}
        if left_out:
            log("values of the caller's environment are left out", level=logging.WARNING, run=request.run_id,
                names=sorted(left_out), reason="DBT_RELAY_ENV_DENY")  # fmt: skip
        env = {**os.environ, **given}
        withheld = withheld_by(request.env, left_out)
    there = paths_here(request, env, settings.project_dir)
    return RunSpec(
        run_id=request.run_id, args=there.args, cwd=there.cwd, project_dir=there.project_dir,
        env=dbt_environment(there.env), invocation_id=invocation_id, started_at=started_at,
        debug=request.debug, file_log=request.file_log, required_models=request.required_models,
        surroundings=decode_process_attributes(env), withheld=withheld,
    )  # fmt: skip


_making = threading.Lock()


@functools.cache
def _created_runtime() -> Runtime:
    return Runtime()


def process_runtime() -> Runtime:
    """This process's runtime, made when it is first needed (after the pool has forked)."""
    with _making:
        return _created_runtime()
