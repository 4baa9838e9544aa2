"""Sessions: one process at a time executes a run whose warehouse only one process may open.

One process at a time may have a DuckDB file open; several may read it while no process writes it. A run on such a
warehouse is executed by *sessions*: one process locks all files that the run's profile opens, executes the steps of the
run that are ready, one after the other, and closes the files before it releases the locks. Other runs on any
of these files wait in line (`ledger/scripts/enter.lua`) and occupy no worker. A run acquires all of its files
at once or none, so no two runs wait for each other.

The run keeps the files from its first session to its end: runs that interleave on one file would leave tables that no
order of plain dbt commands leaves. A session has a lease. If its process is lost, or other work needs the process, the
run goes on in another session.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec
import redis

from workers.contract.keys import SESSION, files_of_warehouse
from workers.contract.run_store import steps_of
from workers.ledger.ledger import FULL, Ledger
from workers.sessions.stale_lock_holders import this_process


class Session(msgspec.Struct, frozen=True):
    """The right to open a warehouse for a run. Every claim must present its `fence`.

    Attributes:
        warehouse: the files, as `contract.keys.warehouse_of_files` writes them.
        holders: for each file the ledger's record of this process (`workers.sessions.stale_lock_holders`).
        publish: steps whose messages the caller must send.
    """

    run_id: str
    warehouse: str
    fence: int
    holders: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()

    @property
    def held(self) -> tuple[str, int]:
        """Step and fence of the lease to renew."""
        return (SESSION, self.fence)

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the warehouse's files."""
        return files_of_warehouse(self.warehouse)


class WarehouseLock:
    """Begins and ends sessions."""

    def __init__(self, ledger: Ledger, identify: Callable[[str, str], str] = this_process) -> None:
        self.ledger = ledger
        self._identify = identify

    def enter(self, run_id: str, warehouse: str, owner: str) -> Session | str:
        """Begin a session.

        Returns:
            the session, or why it was refused (``parked``: another run has a file of it, and this run waits in line).
        """
        holders = tuple(self._identify(file, owner) for file in files_of_warehouse(warehouse))
        try:
            answer = self.ledger.call_json(
                "enter", run_id, warehouse, owner, self.ledger.lease_ms, secrets.token_hex(6), self.ledger.dbt,
                *holders,
            )  # fmt: skip
        except redis.OutOfMemoryError:
            return FULL
        if not answer["entered"]:
            return str(answer["reason"])
        return Session(run_id, warehouse, int(answer["fence"]), holders, steps_of(answer["publish"]))

    def leave(self, session: Session) -> tuple[str, ...]:
        """End a session after the warehouse was closed.

        Returns:
            the steps whose messages the caller must send: the run's next session, or those of other runs.
        """
        answer = self.ledger.call(
            "leave", session.run_id, session.warehouse, session.fence, *session.holders
        )  # fmt: skip
        return tuple(step.decode() for step in answer)
