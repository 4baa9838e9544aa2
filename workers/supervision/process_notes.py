"""What a pool process writes into shared memory for the worker's main process: its leases and its timed node."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import msgspec
from billiard.process import current_process

from workers.contract.log import log
from workers.supervision.child_lease_renewal import (
    HeldLeases,
    Key,
    Lease,
    decode_leases,
    held_leases,
    renewed_leases,
)
from workers.supervision.shared_table import timed_nodes
from workers.supervision.time_limit_enforcement import TimedNode


def clear_notes() -> None:
    """Remove what an earlier process in the same slot of the pool wrote."""
    for table in (timed_nodes, held_leases, renewed_leases):
        table.clear(_slot())


def write_leases(leases: list[Lease]) -> None:
    """Write which leases this process holds. The main process renews them where this one cannot."""
    slot = _slot()
    if not leases:
        held_leases.clear(slot)
    elif not held_leases.write(slot, msgspec.msgpack.encode(HeldLeases(os.getpid(), leases))):
        held_leases.clear(slot)  # what is there is no longer true
        log("no room for a note: this process renews its leases alone", level=logging.DEBUG, slot=slot,
            phase="beat")  # fmt: skip


def read_renewed_leases() -> Mapping[Key, float]:
    """Until when, by `ledger.lease_clock`, the leases last that the main process renewed for this one."""
    return decode_leases(renewed_leases.read(_slot()))


def write_timed_node(watched: TimedNode | None) -> None:
    """Write which node this process executes under a time limit, or that it executes none."""
    slot = _slot()
    if watched is None:
        timed_nodes.clear(slot)
    elif not timed_nodes.write(slot, msgspec.json.encode(watched)):
        log("no room for a note: nothing ends this process at the node's time limit",
            node=watched.claim.step, slot=slot)  # fmt: skip


def _slot() -> int:
    """The index of this process in the pool."""
    return int(getattr(current_process(), "index", 0))
