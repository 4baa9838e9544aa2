"""Ends a process whose node runs past its time limit and heeds nobody: a model that keeps the GIL, or that
catches what is raised in it.

Every worker has one, in a thread of its main process, and knows from the board (`workers.supervision.shared_table`) what its
processes execute. The node's result is recorded first, under the process's own fence, and the process
killed then: so the node ends once, and never runs again for its limit. Until then the main process renews the
leases of a process that cannot do it itself (`workers.supervision.child_lease_renewal`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from workers.contract.log import log
from workers.contract.results import Attempt
from workers.engine.interface import encode
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim, FenceLostError, Move
from workers.runs import final_record
from workers.supervision.child_processes import is_ours
from workers.supervision.time_limits import GRACE, NodeLimits


class TimedNode(msgspec.Struct, kw_only=True):
    """A node that a process executes, and may for so long.

    Attributes:
        owner: the process's name, ``host:pid``.
        began: seconds since the epoch, UTC.
        since: when it began, by the machine's monotonic clock.
        fail_fast: whether its failure ends its run.
    """

    pid: int
    owner: str
    claim: Claim
    limits: NodeLimits
    began: float
    since: float
    fail_fast: bool = False

    @property
    def execution(self) -> tuple[int, str, str, int]:
        """What no other execution shares."""
        return (self.pid, self.claim.run_id, self.claim.step, self.claim.fence)


class TimeLimitEnforcer:
    """Looks at what the processes of this worker execute, in rounds of `INTERVAL` (seconds)."""

    INTERVAL = 0.25

    def __init__(
        self,
        ledger: Ledger,
        publish: Callable[[str, Sequence[str]], None],
        notes: Callable[[], Iterable[bytes]],
        *,
        kill: Callable[[int, int], None] = os.kill,
    ) -> None:
        self._ledger, self._publish, self._notes, self._kill = ledger, publish, notes, kill
        self._ended: dict[int, TimedNode] = {}

    def check(self) -> None:
        """Look once.

        Raises:
            redis.RedisError: nobody is killed whose node could not be recorded; the next look tries again.
        """
        for watched in self._watched():
            now = time.monotonic()
            ended = self._ended.get(watched.pid)
            if not watched.limits.hard or not is_ours(watched.pid):
                continue
            if ended is not None and ended.execution == watched.execution:
                continue
            if now - watched.since >= watched.limits.hard + GRACE:
                self._end(watched, now - watched.since)
        for pid in [pid for pid in self._ended if not is_ours(pid)]:
            del self._ended[pid]  # what else it held is put back by `workers.supervision.child_monitor`

    def _watched(self) -> list[TimedNode]:
        return [msgspec.json.decode(note, type=TimedNode) for note in self._notes()]

    def _end(self, watched: TimedNode, elapsed: float) -> None:
        claim = watched.claim
        outcome = final_record.over_limit(claim, watched.limits.passed(elapsed), watched.owner, watched.began)
        result = outcome.result
        attempt = Attempt(
            step=claim.step, number=claim.tries, worker=watched.owner, started_at=watched.began,
            finished_at=time.time(), status=result.status, error=result.error,
        )  # fmt: skip
        move = Move(word=result.status, blocks=True, stop="fail_fast" if watched.fail_fast else None)
        with contextlib.suppress(FenceLostError):  # it is somebody else's by now: a process too many
            self._publish(
                claim.run_id, self._ledger.finish(claim, move, result=encode(result), attempt=attempt)
            )
        if all(each.execution != watched.execution for each in self._watched()):
            return  # it was done at this very moment
        log("time limit passed, killing its process", level=logging.WARNING, run=claim.run_id,
            node=claim.step, pid=watched.pid, seconds=round(elapsed, 1), phase="limits")  # fmt: skip
        self._ended[watched.pid] = watched
        with contextlib.suppress(ProcessLookupError):
            self._kill(watched.pid, signal.SIGKILL)


def no_note(_: TimedNode | None) -> None:
    """Where nobody is to be told."""
