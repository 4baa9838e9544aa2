"""Runs trials one after another on the same Redis, workers and projects, which are repaired after each trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.chaos.faults import draw
from tests.chaos.scenarios import Arena
from tests.chaos.stack import Stack
from tests.chaos.trial import Trial
from tests.chaos.verdict import Verdict
from tests.support.postgres_server import PostgresServer


class Series:
    """Runs trials.

    Args:
        folder: for projects, warehouses and journals.
        postgres: a running server.
        lease, reap: settings of the workers, seconds.
        longest: maximum seconds of an outage of Redis.
        patience: seconds within which a run must end.
        among: names of the faults that may be drawn; empty: all.
    """

    def __init__(
        self,
        folder: Path,
        postgres: PostgresServer,
        *,
        lease: float,
        reap: float,
        longest: float,
        patience: float = 300.0,
        among: Sequence[str] = (),
    ) -> None:
        self._folder, self._lease, self._reap, self._longest = folder, lease, reap, longest
        self._patience, self._among = patience, among
        self._postgres = postgres
        self._stack: Stack | None = None
        self._arenas: dict[str, Arena] = {}

    def __enter__(self) -> Series:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stack is not None:
            self._stack.close()
        for arena in self._arenas.values():
            arena.store.close()

    def run_trial(self, seed: int, name: str) -> Verdict:
        """Run one trial of a scenario of `SCENARIOS`."""
        stack = self._running_stack()
        arena = self._arenas.get(name) or self._prepare(name, stack)
        arena.connect(stack.caller.broker_url)
        drawn = draw(seed, lease=self._lease, longest=self._longest, among=self._among)
        trial = Trial(stack, arena, seed, drawn, patience=self._patience)
        try:
            verdict = trial.execute()
        finally:
            trial.close()
        if any("did not end" in each for each in verdict.differences):
            self._discard_stack()
        return verdict

    def _running_stack(self) -> Stack:
        if self._stack is None:
            secrets = {
                name: value for name, value in self._postgres._database("").env.items() if "SECRET" in name
            }
            self._stack = Stack(self._folder, lease=self._lease, reap=self._reap, env=secrets)
            self._stack.start()
        return self._stack

    def _prepare(self, name: str, stack: Stack) -> Arena:
        folder = self._folder / name
        folder.mkdir()
        arena = Arena(name, folder, stack.caller.broker_url, self._postgres)
        arena.prepare(stack.journal)
        self._arenas[name] = arena
        return arena

    def _discard_stack(self) -> None:
        """Close the stack, so that a run that did not end does not affect the next."""
        assert self._stack is not None
        self._stack.close()
        self._stack = None
