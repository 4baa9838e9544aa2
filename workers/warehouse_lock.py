"""One process at a time where the warehouse allows only one: sessions.

A DuckDB file belongs to one process at a time, readers included. A run on such a warehouse is
executed by *sessions*: one process takes the warehouse's lock, executes whatever is ready of the
run, step by step, and closes the file before it lets go. Other runs on the same file wait in line
(`lua/enter.lua`), and hold no worker while they wait.

The file belongs to the run, from its first session to its end: interleaved runs on one file would
leave tables that no order of plain dbt commands leaves. A session is a lease and ends with its holder;
the run goes on in another one, as it does after a retry's wait or when its process was wanted elsewhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec
import redis

from workers.contract.names import SESSION
from workers.ledger import FULL, Ledger
from workers.strays import this_process


class Session(msgspec.Struct, frozen=True):
    """The right to open a warehouse for a run. `fence` must be shown with every claim.

    `holder` is what the ledger knows of this process (`workers.strays`).
    """

    run_id: str
    warehouse: str
    fence: int
    holder: str = ""

    @property
    def held(self) -> tuple[str, int]:
        """What a beat renews."""
        return (SESSION, self.fence)


class WarehouseLock:
    """Who may open which single-process warehouse."""

    def __init__(self, ledger: Ledger, identify: Callable[[str, str], str] = this_process) -> None:
        self.ledger = ledger
        self._identify = identify

    def enter(self, run_id: str, warehouse: str, owner: str) -> Session | str:
        """Begin a session, or say why not (``parked``: somebody else has it, the run waits in line)."""
        holder = self._identify(warehouse, owner)
        try:
            answer = self.ledger.call_json(
                "enter", run_id, warehouse, owner, self.ledger.lease_ms, secrets.token_hex(6), holder,
                self.ledger.dbt,
            )  # fmt: skip
        except redis.OutOfMemoryError:
            return FULL
        if not answer["entered"]:
            return str(answer["reason"])
        return Session(run_id, warehouse, int(answer["fence"]), holder)

    def leave(self, session: Session) -> str:
        """End a session once the warehouse is closed.

        Returns:
            the run whose session has to be published next, or an empty string.
        """
        answer = self.ledger.call("leave", session.run_id, session.warehouse, session.fence, session.holder)
        return str(answer.decode())
