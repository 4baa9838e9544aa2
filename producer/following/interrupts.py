"""Handles Ctrl-C while a run is followed: the first cancels the run, the second stops waiting for its end."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from producer.following.streams import say

_PATIENCE = 5.0
"""Seconds that the second Ctrl-C waits for the cancellation to reach Redis."""


class Detached(KeyboardInterrupt):
    """The caller stopped waiting; the run ends without it.

    Attributes:
        run_remains: whether the run can be asked for afterwards; a private stack ends with its caller.
    """

    def __init__(self, message: str = "", *, run_remains: bool = False) -> None:
        super().__init__(message)
        self.run_remains = run_remains


class Interrupts:
    """Context manager that handles SIGINT for a run.

    Does nothing outside the main thread, which alone receives signals, or where the caller has its own handler.
    """

    def __init__(self, run_id: str, cancel: Callable[[], Any], *, private: bool) -> None:
        """
        Args:
            cancel: cancels the run.
            private: whether the run is executed by a private stack, which ends with this process.
        """
        self.count = 0
        self._run_id, self._cancel, self._private = run_id, cancel, private
        self._cancelling: threading.Thread | None = None
        self._failure: Exception | None = None
        self._previous: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGINT)
            if self._previous is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._on_sigint)
            else:
                self._previous = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the handler.

        Raises:
            KeyboardInterrupt: the run was cancelled.
            Detached: the caller did not wait for the run's end.
        """
        try:
            if isinstance(error, Detached):
                raise Detached(self._detached_message(), run_remains=not self._private) from None
            if self.count and error is None:
                raise KeyboardInterrupt(f"run {self._run_id} was cancelled")
        finally:
            if self._previous is not None:
                signal.signal(signal.SIGINT, self._previous)

    def _on_sigint(self, _signum: int, _frame: object) -> None:
        self.count += 1
        if self.count > 1:
            raise Detached
        self._start_cancelling()
        again = "stops its private stack" if self._private else "stops waiting for its end"
        say(sys.stderr, f"cancelling run {self._run_id}; Ctrl-C again {again}")

    def _start_cancelling(self) -> threading.Thread:
        thread = threading.Thread(target=self._cancel_run, name="cancel", daemon=True)
        thread.start()
        self._cancelling = thread
        return thread

    def _cancel_run(self) -> None:
        try:
            self._cancel()
        except Exception as error:  # noqa: BLE001 - reported by `_detached_message`
            self._failure = error

    def _detached_message(self) -> str:
        run_id = self._run_id
        if self._private:
            return (
                f"stopped waiting for run {run_id}: the private stack that executes it ends with this process, "
                "and the run's state is lost"
            )
        # a second SIGINT can interrupt the first handler
        cancelling = self._cancelling or self._start_cancelling()
        cancelling.join(_PATIENCE)
        if cancelling.is_alive():
            self._failure = TimeoutError("Redis does not answer")
        if self._failure is not None:
            return (
                f"stopped waiting for run {run_id}, which could not be cancelled ({self._failure}): "
                f"`dbt-relay cancel {run_id}` stops it"
            )
        return (
            f"stopped waiting for run {run_id}, which is being cancelled: `dbt-relay watch {run_id}` "
            f"follows it, `dbt-relay result {run_id}` shows its result"
        )
