"""Renews leases, also for pool processes that cannot do it themselves at the moment.

A pool process renews its leases from a thread (`workers.heart`). That thread needs Python's global lock
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

import msgspec
import redis

from workers.board import Board
from workers.children import can_execute
from workers.contract.connection import serves_nobody
from workers.contract.log import log
from workers.ledger import Ledger, lease_clock

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


held_leases = Board(item_bytes=4096)
"""`HeldLeases` of each pool process of this worker; the pool process writes it."""

renewed_leases = Board(item_bytes=4096)
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
        that are not lost. While the server is down it gives the steps to nobody, and the answer is ``ok``.

    Raises:
        redis.RedisError: the server cannot be reached.
    """
    pairs, until = list(held), lease_clock() + ledger.lease_ms / 1000
    try:
        return ledger.beat(run_id, pairs), until
    except redis.RedisError as error:
        if not serves_nobody(error):
            raise
        log("beat failed", error=str(error), phase="beat")
        return ["ok"] * len(pairs), until


def decode_leases(note: bytes | None) -> dict[Key, float]:
    """Until when each lease of a note in `renewed_leases` lasts."""
    leases = msgspec.msgpack.decode(note, type=list[Lease]) if note else []
    return {lease.key: lease.until for lease in leases}


class ChildLeases:
    """Renews leases for the pool processes of this worker, in rounds of `interval` (seconds)."""

    def __init__(
        self,
        ledger: Ledger,
        held: Board = held_leases,
        renewed: Board = renewed_leases,
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
        self._over: set[Key] = set()  # answered lost or stop
        self.interval = interval_of(ledger.lease_ms) / 2

    def look(self) -> None:
        """Renew what was not renewed for one and a half intervals.

        Raises:
            redis.RedisError: the server cannot be reached; the next look tries again.
        """
        processes = {slot: msgspec.msgpack.decode(note, type=HeldLeases) for slot, note in self._held.items()}
        present = {lease.key for process in processes.values() for lease in process.leases}
        self._over &= present
        self._until = {key: until for key, until in self._until.items() if key in present}
        for slot, process in processes.items():
            self._renew_for(slot, process)

    def _renew_for(self, slot: int, process: HeldLeases) -> None:
        if any(lease.key in self._over for lease in process.leases):
            # it must end this step. If it cannot, the step's lease and its session's run out together, and the
            # run ends elsewhere
            return
        early = lease_clock() + self._ledger.lease_ms / 1000 - 3 * self.interval
        due: dict[str, list[Lease]] = {}
        for lease in process.leases:
            if max(lease.until, self._until.get(lease.key, 0.0)) < early:
                due.setdefault(lease.run_id, []).append(lease)
        for run_id, leases in due.items():
            if not self._can_execute(process.pid):
                return
            try:
                answers, until = renew(self._ledger, run_id, [(each.step, each.fence) for each in leases])
            except redis.ResponseError as error:  # of this run; the other runs' leases are renewed
                log("lease not renewed", level=logging.WARNING, run=run_id, error=str(error), phase="beat")
                continue
            for lease, answer in zip(leases, answers, strict=True):
                if answer == "ok":
                    self._until[lease.key] = until
                else:
                    self._over.add(lease.key)
        if due:
            mine = [Lease(*lease.key, self._until.get(lease.key, 0.0)) for lease in process.leases]
            self._renewed.post(slot, msgspec.msgpack.encode(mine))
