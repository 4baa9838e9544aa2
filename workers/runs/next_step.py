"""The next step of a run, where the process that planned the run executes it without a message.

The ledger has handed the step out. If this process dies before it claims the step, the reaper sends the message, as for
one that was lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from workers.contract.keys import STEP_COMMAND, STEP_PLAN, addressed

_ALWAYS_SENT = frozenset({STEP_PLAN, STEP_COMMAND})
"""Steps that begin a run."""


class NextStep:
    """Holds the message of one step of one run back. For the thread that executes Celery tasks.

    Attributes:
        step: the step; empty if there is none.
    """

    def __init__(self) -> None:
        self._run_id = self.step = ""

    @contextmanager
    def kept_of(self, run_id: str) -> Iterator[None]:
        """Hold a message of a run back in this block."""
        self._run_id = run_id
        try:
            yield
        finally:
            self._run_id = ""

    def keep(self, run_id: str, steps: Sequence[str]) -> tuple[str, ...]:
        """Keep one of the steps that the ledger handed out, if none is kept yet.

        Args:
            run_id: the run whose step was recorded; `steps` may name others (`contract.keys.addressed`).

        Returns:
            the steps whose messages have to be sent.
        """
        kept = None if self.step else next((each for each in steps if self._is_next(run_id, each)), None)
        if kept is None:
            return tuple(steps)
        self.step = addressed(run_id, kept)[1]
        return tuple(each for each in steps if each != kept)

    def _is_next(self, run_id: str, entry: str) -> bool:
        run, step = addressed(run_id, entry)
        return bool(self._run_id) and run == self._run_id and step not in _ALWAYS_SENT

    def take(self) -> str:
        """Return the step that is kept, and keep it no longer; empty if there is none."""
        step, self.step = self.step, ""
        return step
