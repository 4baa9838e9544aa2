"""Trials one after another, on the same Redis, workers and projects: what one breaks is mended, not made anew."""

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
    """Plays trials.

    Args:
        folder: for projects, warehouses and journals.
        postgres: a running server.
        lease, reap: settings of the workers, seconds.
        longest: seconds that Redis is away at most.
        patience: seconds after which a run that did not end never will.
        among: names of the faults that may be drawn; none: all.
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

    def play(self, seed: int, name: str) -> Verdict:
        """One trial of a scenario (`SCENARIOS`)."""
        stack = self._running_stack()
        arena = self._arenas.get(name) or self._prepare(name, stack)
        arena.connect(stack.caller.broker_url)
        drawn = draw(seed, lease=self._lease, longest=self._longest, among=self._among)
        trial = Trial(stack, arena, seed, drawn, patience=self._patience)
        try:
            verdict = trial.play()
        finally:
            trial.close()
        if any("did not end" in each for each in verdict.differences):
            self._start_anew()
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

    def _start_anew(self) -> None:
        """What a run that never ended still holds must not touch the next."""
        assert self._stack is not None
        self._stack.close()
        self._stack = None
