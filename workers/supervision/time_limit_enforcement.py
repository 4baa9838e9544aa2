"""Kills a pool process whose node runs past its time limit and does not react to cancellation: a model that holds the
GIL, or that catches the exception raised in it.

Every worker has an enforcer, in a thread of its main process. It reads from shared memory (`shared_table.timed_nodes`)
which nodes the pool processes execute. It records the node's result first, with the fence of the process, and then kills
the process. So the node ends once and is not retried because of its limit. Until then the main process renews the
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
from workers.engine.interface import encode, failed_node
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim, FenceLostError, Move
from workers.supervision.child_processes import is_ours
from workers.supervision.time_limits import GRACE, NodeLimits


class TimedNode(msgspec.Struct, kw_only=True):
    """A node with time limits that a pool process executes.

    Attributes:
        pid: id of the process.
        owner: name of the process, ``host:pid``.
        claim: the node's claim.
        limits: the node's time limits.
        began: start of the execution, seconds since the epoch, UTC.
        since: start of the execution, by the machine's monotonic clock.
        fail_fast: whether the node's failure ends its run.
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
        """Identifies this execution of the node."""
        return (self.pid, self.claim.run_id, self.claim.step, self.claim.fence)


class TimeLimitEnforcer:
    """Enforces the time limits of the nodes that this worker's pool executes. Call `check` every `INTERVAL` seconds."""

    INTERVAL = 0.25

    def __init__(
        self,
        ledger: Ledger,
        publish: Callable[[str, Sequence[str]], None],
        timed_nodes: Callable[[], Iterable[bytes]],
        *,
        kill: Callable[[int, int], None] = os.kill,
    ) -> None:
        """
        Args:
            ledger: the ledger.
            publish: publishes the steps of a run.
            timed_nodes: returns the JSON of each `TimedNode` of this worker's pool processes.
            kill: sends a signal to a process.
        """
        self._ledger, self._publish, self._timed_nodes, self._kill = ledger, publish, timed_nodes, kill
        self._ended: dict[int, TimedNode] = {}

    def check(self) -> None:
        """End the nodes whose time limit passed more than `GRACE` ago.

        Raises:
            redis.RedisError: a result could not be recorded, so the process was not killed; the next call tries again.
        """
        for node in self._nodes():
            now = time.monotonic()
            ended = self._ended.get(node.pid)
            if not node.limits.hard or not is_ours(node.pid):
                continue
            if ended is not None and ended.execution == node.execution:
                continue
            if now - node.since >= node.limits.hard + GRACE:
                self._end(node, now - node.since)
        for pid in [pid for pid in self._ended if not is_ours(pid)]:
            del self._ended[
                pid
            ]  # `workers.supervision.child_monitor` requeues the other steps of the process

    def _nodes(self) -> list[TimedNode]:
        return [msgspec.json.decode(entry, type=TimedNode) for entry in self._timed_nodes()]

    def _end(self, node: TimedNode, elapsed: float) -> None:
        claim = node.claim
        error = msgspec.structs.replace(node.limits.passed(elapsed).error(claim.step), attempts=claim.tries)
        result = failed_node(
            claim.step, error, worker=node.owner, began=node.began, execution_time=elapsed
        ).result
        attempt = Attempt(
            step=claim.step, number=claim.tries, worker=node.owner, started_at=node.began,
            finished_at=time.time(), status=result.status, error=result.error,
        )  # fmt: skip
        move = Move(word=result.status, blocks=True, stop="fail_fast" if node.fail_fast else None)
        with contextlib.suppress(FenceLostError):  # another process has the step: kill this one all the same
            self._publish(
                claim.run_id, self._ledger.finish(claim, move, result=encode(result), attempt=attempt)
            )
        if all(each.execution != node.execution for each in self._nodes()):
            return  # the node ended in the meantime
        log("time limit passed, killing the process", level=logging.WARNING, run=claim.run_id,
            node=claim.step, pid=node.pid, seconds=round(elapsed, 1), phase="limits")  # fmt: skip
        self._ended[node.pid] = node
        with contextlib.suppress(ProcessLookupError):
            self._kill(node.pid, signal.SIGKILL)
