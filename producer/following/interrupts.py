"""Ctrl-C while a run is followed: the first one cancels the run, a second one stops waiting for its end."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from producer.following.streams import say

_PATIENCE = 5.0
"""Seconds that a cancel may take to reach Redis before its caller is let go without it."""


class Detached(KeyboardInterrupt):
    """The caller went away; the run ends without it."""


class Interrupts:
    """What Ctrl-C means as long as it is entered.

    Only the main thread gets signals; elsewhere, and where the caller has a handler of its own, this
    does nothing.
    """

    def __init__(self, run_id: str, cancel: Callable[[], Any], *, private: bool) -> None:
        """
        Args:
            cancel: asks the run to stop.
            private: whether what executes the run ends with this process.
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
        """Raises KeyboardInterrupt where the run was cancelled, Detached where it was not waited for."""
        try:
            if isinstance(error, Detached):
                raise Detached(self._detached_message()) from None
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
        except Exception as error:  # noqa: BLE001 - said when the caller leaves; else the run tells
            self._failure = error

    def _detached_message(self) -> str:
        run_id = self._run_id
        if self._private:
            return (
                f"run {run_id} was not waited for: the private stack that executes it ends with this process, "
                "and keeps nothing of it"
            )
        cancelling = (
            self._cancelling or self._start_cancelling()
        )  # the second may come in the middle of the first
        cancelling.join(_PATIENCE)
        if cancelling.is_alive():
            self._failure = TimeoutError("Redis does not answer")
        if self._failure is not None:
            return (
                f"left run {run_id}, which could not be cancelled ({self._failure}): "
                f"`dbt-relay cancel {run_id}` stops it"
            )
        return (
            f"left run {run_id}, which is being cancelled and ends by itself: `dbt-relay watch {run_id}` "
            f"follows it, `dbt-relay result {run_id}` says what became of it"
        )
