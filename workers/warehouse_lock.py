"""One process at a time where the warehouse allows only one: sessions.

A DuckDB file belongs to one process at a time, readers included. A run on such a warehouse is
executed by *sessions*: one process takes the warehouse's lock, executes whatever is ready of the
run, step by step, and closes the file before it lets go. Other runs on the same file wait in line
(`lua/enter.lua`), and hold no worker while they wait. The lock is a lease: it ends with its holder.

A session holds the file for its whole run rather than handing it over after each node: interleaved
runs on one file would leave tables that no order of plain dbt commands leaves.
"""

from __future__ import annotations

import msgspec

from workers.ledger import SESSION, Ledger


class Session(msgspec.Struct, frozen=True):
    """The right to open a warehouse for a run. `fence` must be shown with every claim."""

    run_id: str
    warehouse: str
    fence: int

    @property
    def held(self) -> tuple[str, int]:
        """What a beat renews."""
        return (SESSION, self.fence)


class WarehouseLock:
    """Who may open which single-process warehouse."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def _keys(self, warehouse: str) -> list[str]:
        keys = self.ledger.keys
        return [keys.lock(warehouse), keys.lock_waiters(warehouse)]

    def enter(self, run_id: str, warehouse: str, owner: str) -> Session | str:
        """Begin a session, or say why not (``parked``: somebody else has it, the run waits in line)."""
        answer = self.ledger.call_json(
            "enter", run_id, owner, self.ledger.lease_ms, extra=self._keys(warehouse)
        )
        if not answer["entered"]:
            return str(answer["reason"])
        return Session(run_id, warehouse, int(answer["fence"]))

    def leave(self, session: Session) -> str:
        """End a session once the warehouse is closed.

        Returns:
            the run whose session has to be published next, or an empty string.
        """
        answer = self.ledger.call("leave", session.run_id, session.fence, extra=self._keys(session.warehouse))
        return str(answer.decode())
