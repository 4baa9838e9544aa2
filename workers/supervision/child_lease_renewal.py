"""Renews leases of pool processes that cannot renew them at the moment, from the worker's main process.

A pool process renews its leases from a thread (`workers.supervision.lease_renewal`). This thread needs Python's global
lock (GIL), and a long call into C holds it: a regular expression, garbage collection of a large project, compilation of
a large template. So each pool process writes its leases into shared memory, and the main process renews those that were
not renewed in time.

The main process renews a lease only while its holder is its child, has not ended and is not stopped. The ledger refuses
the renewal if the step was finished, handed back or given to another process: the lease carries the fence of its claim.
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
"""Run, step and fence of a claim."""


class Lease(msgspec.Struct, frozen=True, array_like=True):
    """The lease of one claim.

    Attributes:
        until: the lease does not expire before that time of `lease_clock`; 0.0: unknown.
    """

    run_id: str
    step: str
    fence: int
    until: float = 0.0

    @property
    def key(self) -> Key:
        """Run, step and fence."""
        return (self.run_id, self.step, self.fence)


class HeldLeases(msgspec.Struct, frozen=True, array_like=True):
    """The leases of a pool process."""

    pid: int
    leases: list[Lease] = []


held_leases = SharedTable(item_bytes=4096)
"""`HeldLeases` of each pool process of this worker, written by the pool process."""

renewed_leases = SharedTable(item_bytes=4096)
"""List of `Lease` of each pool process, written by the main process after it renewed them."""


def interval_of(lease_ms: int) -> float:
    """Return the seconds between two renewals: one second at most, because the answer also says that a run is cancelled."""
    return min(1.0, lease_ms / 3000)


def renew(ledger: Ledger, run_id: str, held: Iterable[tuple[str, int]]) -> tuple[list[str], float]:
    """Renew leases of a run.

    Args:
        ledger: the ledger.
        run_id: the run.
        held: step and fence of each claim.

    Returns:
        ``ok``, ``lost`` or ``stop`` for each claim, and the time of `lease_clock` before which the leases that are not
        lost do not expire.

    Raises:
        redis.RedisError: the server cannot be reached.
    """
    pairs, until = list(held), lease_clock() + ledger.lease_ms / 1000
    return _unless_down(lambda: ledger.beat(run_id, pairs), ["ok"] * len(pairs)), until


def _unless_down(ask: Callable[[], T], otherwise: T) -> T:
    """Call the server, or return `otherwise` if it is down: then no process can be given the steps, so they count as
    renewed."""
    try:
        return ask()
    except redis.RedisError as error:
        if not is_server_down(error):
            raise
        log("leases not renewed", error=str(error), phase="beat")
        return otherwise


def decode_leases(note: bytes | None) -> dict[Key, float]:
    """Decode an entry of `renewed_leases` into the expiry of each lease (`Lease.until`)."""
    leases = msgspec.msgpack.decode(note, type=list[Lease]) if note else []
    return {lease.key: lease.until for lease in leases}


class ChildLeaseRenewer:
    """Renews overdue leases of this worker's pool processes. Call `renew_overdue` every `interval` seconds."""

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
            ledger: its client must have a short timeout, so that one renewal does not delay the others.
            held: the leases of the pool processes.
            renewed: where to write what was renewed.
            can_execute: whether the process with this id has not ended and is not stopped.
        """
        self._ledger, self._held, self._renewed = ledger, held, renewed
        self._can_execute = can_execute
        self._until: dict[Key, float] = {}
        self._lost: set[Key] = set()  # finished, or given to another process
        self._stopping: set[Key] = set()  # the process has to end the step
        self.interval = interval_of(ledger.lease_ms) / 2

    def renew_overdue(self) -> None:
        """Renew the leases that their process did not renew for one and a half of its intervals.

        Raises:
            redis.RedisError: the server cannot be reached; the next call tries again.
        """
        processes = {slot: msgspec.msgpack.decode(note, type=HeldLeases) for slot, note in self._held.items()}
        present = {lease.key for process in processes.values() for lease in process.leases}
        self._lost &= present
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
        """Return the leases of a process to renew, by run."""
        if any(lease.key in self._stopping for lease in process.leases):
            # The process has to end this step. If it cannot, all its leases expire, including its session's, and
            # another worker ends the run.
            return {}
        early = lease_clock() + self._ledger.lease_ms / 1000 - 3 * self.interval
        due: dict[str, list[Lease]] = {}
        for lease in process.leases:
            if max(lease.until, self._until.get(lease.key, 0.0)) < early and lease.key not in self._lost:
                due.setdefault(lease.run_id, []).append(lease)
        return due

    def _renew(self, due: list[tuple[int, str, list[Lease]]]) -> None:
        until = lease_clock() + self._ledger.lease_ms / 1000
        asked = [(run_id, [(each.step, each.fence) for each in leases]) for _, run_id, leases in due]
        down: list[list[str] | redis.ResponseError] = [["ok"] * len(leases) for _, _, leases in due]
        answers = _unless_down(lambda: self._ledger.beat_many(asked), down)
        for (_, run_id, leases), answer in zip(due, answers, strict=True):
            if isinstance(answer, redis.ResponseError):
                log("lease not renewed", level=logging.WARNING, run=run_id, error=str(answer), phase="beat")
                continue
            for lease, status in zip(leases, answer, strict=True):
                if status == "ok":
                    self._until[lease.key] = until
                else:
                    (self._stopping if status == "stop" else self._lost).add(lease.key)
