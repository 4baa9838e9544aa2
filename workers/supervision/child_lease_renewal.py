"""Renews leases, also for pool processes that cannot do it themselves at the moment.

A pool process renews its leases from a thread (`workers.supervision.lease_renewal`). That thread needs Python's global lock
(GIL), and one long call into C keeps it: a regular expression, the garbage collection of a large project, the
compilation of a large template. On a busy machine a second of computing takes many seconds. So each pool
process writes into shared memory which leases it holds, and the worker's main process renews those that were
not renewed in time.

The main process renews a lease only while the process that holds it is its child, has not ended and is not
stopped. The lease carries the fence of its claim, so the ledger refuses to renew what was finished, given back
or given to another process meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
import redis

from workers.contract.connection import is_server_down
from workers.contract.log import log
from workers.ledger.ledger import Ledger
from workers.ledger.records import lease_clock
from workers.supervision.child_processes import can_execute
from workers.supervision.shared_table import SharedTable

T = TypeVar("T")

Key = tuple[str, str, int]
"""Run, step and fence: one claim."""


class Lease(msgspec.Struct, frozen=True, array_like=True):
    """The lease of one claim.

    Attributes:
        until: nobody else can be given the step before that, by `lease_clock`; 0.0: unknown.
    """

    run_id: str
    step: str
    fence: int
    until: float = 0.0

    @property
    def key(self) -> Key:
        """The claim."""
        return (self.run_id, self.step, self.fence)


class HeldLeases(msgspec.Struct, frozen=True, array_like=True):
    """The leases that a pool process holds."""

    pid: int
    leases: list[Lease] = []


held_leases = SharedTable(item_bytes=4096)
"""`HeldLeases` of each pool process of this worker; the pool process writes it."""

renewed_leases = SharedTable(item_bytes=4096)
"""The `Lease`s of each pool process that the main process renewed last; the main process writes it."""


def interval_of(lease_ms: int) -> float:
    """Seconds between two renewals. A second at most, because a renewal also tells of a cancelled run."""
    return min(1.0, lease_ms / 3000)


def renew(ledger: Ledger, run_id: str, held: Iterable[tuple[str, int]]) -> tuple[list[str], float]:
    """Renew leases of a run.

    Args:
        held: step and fence of each claim.

    Returns:
        ``ok``, ``lost`` or ``stop`` for each, and until when, by `lease_clock`, nobody else can be given those
        that are not lost.

    Raises:
        redis.RedisError: the server cannot be reached.
    """
    pairs, until = list(held), lease_clock() + ledger.lease_ms / 1000
    return _unless_down(lambda: ledger.beat(run_id, pairs), ["ok"] * len(pairs)), until


def _unless_down(ask: Callable[[], T], otherwise: T) -> T:
    """What the server answers. While it is down it gives the steps to nobody, so they count as renewed."""
    try:
        return ask()
    except redis.RedisError as error:
        if not is_server_down(error):
            raise
        log("beat failed", error=str(error), phase="beat")
        return otherwise


def decode_leases(note: bytes | None) -> dict[Key, float]:
    """Until when each lease of a note in `renewed_leases` lasts."""
    leases = msgspec.msgpack.decode(note, type=list[Lease]) if note else []
    return {lease.key: lease.until for lease in leases}


class ChildLeaseRenewer:
    """Renews leases for the pool processes of this worker, in rounds of `interval` (seconds)."""

    def __init__(
        self,
        ledger: Ledger,
        held: SharedTable = held_leases,
        renewed: SharedTable = renewed_leases,
        *,
        can_execute: Callable[[int], bool] = can_execute,
    ) -> None:
        """
        Args:
            ledger: over a client that gives up early: the other leases must not wait.
            can_execute: whether the process of that id lives and is not stopped.
        """
        self._ledger, self._held, self._renewed = ledger, held, renewed
        self._can_execute = can_execute
        self._until: dict[Key, float] = {}
        self._over: set[Key] = set()  # answered lost: finished, or another process's
        self._stopping: set[Key] = set()  # answered stop
        self.interval = interval_of(ledger.lease_ms) / 2

    def renew_overdue(self) -> None:
        """Renew what was not renewed for one and a half intervals.

        Raises:
            redis.RedisError: the server cannot be reached; the next look tries again.
        """
        processes = {slot: msgspec.msgpack.decode(note, type=HeldLeases) for slot, note in self._held.items()}
        present = {lease.key for process in processes.values() for lease in process.leases}
        self._over &= present
        self._stopping &= present
        self._until = {key: until for key, until in self._until.items() if key in present}
        due = [
            (slot, run_id, leases)
            for slot, process in processes.items()
            for run_id, leases in self._due(process).items()
            if self._can_execute(process.pid)
        ]
        if due:
            self._renew(due)
        for slot in {slot for slot, _, _ in due}:
            mine = [Lease(*lease.key, self._until.get(lease.key, 0.0)) for lease in processes[slot].leases]
            self._renewed.write(slot, msgspec.msgpack.encode(mine))

    def _due(self, process: HeldLeases) -> dict[str, list[Lease]]:
        """What to renew for a process, by run."""
        if any(lease.key in self._stopping for lease in process.leases):
            # It has to end this step. If it cannot, its leases run out together, its session's too, and the run
            # ends elsewhere.
            return {}
        early = lease_clock() + self._ledger.lease_ms / 1000 - 3 * self.interval
        due: dict[str, list[Lease]] = {}
        for lease in process.leases:
            if max(lease.until, self._until.get(lease.key, 0.0)) < early and lease.key not in self._over:
                due.setdefault(lease.run_id, []).append(lease)
        return due

    def _renew(self, due: list[tuple[int, str, list[Lease]]]) -> None:
        until = lease_clock() + self._ledger.lease_ms / 1000
        asked = [(run_id, [(each.step, each.fence) for each in leases]) for _, run_id, leases in due]
        down: list[list[str] | redis.ResponseError] = [["ok"] * len(leases) for _, _, leases in due]
        answers = _unless_down(lambda: self._ledger.beat_many(asked), down)
        for (_, run_id, leases), words in zip(due, answers, strict=True):
            if isinstance(words, redis.ResponseError):
                log("lease not renewed", level=logging.WARNING, run=run_id, error=str(words), phase="beat")
                continue
            for lease, word in zip(leases, words, strict=True):
                if word == "ok":
                    self._until[lease.key] = until
                else:
                    (self._stopping if word == "stop" else self._over).add(lease.key)
