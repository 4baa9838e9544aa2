"""One process at a time where the warehouse allows only one: sessions.

A DuckDB file belongs to one process at a time; several may read it, as long as nobody writes. A run on such a
warehouse is executed by *sessions*: one process takes the locks of all files that the run's profile opens,
executes whatever is ready of the run, step by step, and closes the files before it lets go. Other runs on any
of these files wait in line (`lua/enter.lua`), and hold no worker while they wait. A run takes all of its files
at once or none, so no two runs wait for each other.

The files belong to the run, from its first session to its end: interleaved runs on one file would
leave tables that no order of plain dbt commands leaves. A session is a lease and ends with its holder;
the run goes on in another one, as it does after a retry's wait or when its process was wanted elsewhere.
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
    """The right to open a warehouse for a run. `fence` must be shown with every claim.

    Attributes:
        warehouse: the files, as `contract.keys.warehouse_of_files` writes them.
        holders: for each file what the ledger knows of this process (`workers.sessions.stale_lock_holders`).
        publish: steps of other runs whose messages have to be published now.
    """

    run_id: str
    warehouse: str
    fence: int
    holders: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()

    @property
    def held(self) -> tuple[str, int]:
        """What a beat renews."""
        return (SESSION, self.fence)

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the warehouse's files."""
        return files_of_warehouse(self.warehouse)


class WarehouseLock:
    """Who may open which single-process warehouse."""

    def __init__(self, ledger: Ledger, identify: Callable[[str, str], str] = this_process) -> None:
        self.ledger = ledger
        self._identify = identify

    def enter(self, run_id: str, warehouse: str, owner: str) -> Session | str:
        """Begin a session, or say why not (``parked``: others have a file of it, the run waits in line)."""
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
        """End a session once the warehouse is closed.

        Returns:
            the steps whose messages have to be published: the run's next session, or other runs'.
        """
        answer = self.ledger.call(
            "leave", session.run_id, session.warehouse, session.fence, *session.holders
        )  # fmt: skip
        return tuple(step.decode() for step in answer)
