"""The next step of a run that stays in the process that planned the run.

While runs wait in line, a run has one step under way at a time (`ledger/scripts/turns.lua`). If its message were sent,
any process might take it, and would have to load the project. The ledger has the step as queued: if this process dies
before it claims the step, the reaper sends the message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from workers.contract.keys import SESSION, STEP_COMMAND, STEP_PLAN, addressed

_SENT = frozenset({STEP_PLAN, STEP_COMMAND, SESSION})
"""Steps whose messages are always sent: they begin something else than the next step of a planned run."""


class NextStep:
    """Holds back the message of one step at a time, of one run.

    Attributes:
        step: the step; empty if there is none.
    """

    def __init__(self) -> None:
        self._run_id = self.step = ""

    @contextmanager
    def kept_of(self, run_id: str) -> Iterator[None]:
        """Hold back messages of a run in this block."""
        self._run_id = run_id
        try:
            yield
        finally:
            self._run_id = ""

    def keep(self, run_id: str, steps: Sequence[str]) -> tuple[str, ...]:
        """Keep one of the steps that are due after a move of `run_id`, if there is none yet.

        Returns:
            the steps whose messages are to be sent.
        """
        kept = next((each for each in steps if self._is_next(run_id, each)), None)
        if kept is None or self.step:
            return tuple(steps)
        self.step = addressed(run_id, kept)[1]
        return tuple(each for each in steps if each != kept)

    def _is_next(self, run_id: str, entry: str) -> bool:
        run, step = addressed(run_id, entry)
        return bool(self._run_id) and run == self._run_id and step not in _SENT

    def take(self) -> str:
        """The step that was kept, once; empty if there is none."""
        step, self.step = self.step, ""
        return step
