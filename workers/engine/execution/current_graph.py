"""Keeps `graph` current in each process of a run (dbt-core >= 1.12).

From dbt-core 1.12 on, `graph` shows each node as it is when a template looks, with the code compiled so far. Here other
processes compile some of the nodes. So before a step's first look at an entry of `graph`, the results that the ledger
received since the last look of this process are applied to the run's nodes. Steps that do not look read nothing.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from workers.engine.interface import StepResult
from workers.engine.template_state.calls import note_graph_use

Results = Callable[[int], Sequence[StepResult | None]]
"""Returns the results of the run's finished attempts from a position on; None for an attempt without one."""


class CurrentGraph:
    """Applies results of other processes when a template of the executing step looks at `graph`."""

    def __init__(self) -> None:
        self._position = 0
        self._unread: tuple[Results, Callable[[StepResult], None]] | None = None
        self._lock = threading.Lock()  # batches of a microbatch model render in several threads

    def watch(self, graph: dict[str, Any]) -> None:
        """Notice look-ups in the sections of a `graph` that shows current nodes; other graphs stay as they are."""
        for name, section in graph.items():
            if hasattr(section, "inner_dict"):
                kind: Any = type(section)
                graph[name] = _watched_class(kind)(section.inner_dict, self._look)

    @contextmanager
    def reading(self, results: Results, apply: Callable[[StepResult], None]) -> Iterator[None]:
        """During a step, read results at the first look.

        Args:
            apply: sets on the run's nodes what a result says of them.
        """
        self._unread = results, apply
        try:
            yield
        finally:
            self._unread = None

    def _look(self) -> None:
        note_graph_use()
        if self._unread is not None:
            with self._lock:
                self._read()

    def _read(self) -> None:
        if self._unread is None:  # another thread has read them meanwhile
            return
        results, apply = self._unread
        for result in results(self._position):
            if result is not None:
                apply(result)
            self._position += 1
        self._unread = None


@functools.cache
def _watched_class(base: Any) -> Any:
    """dbt's class of a section (dbt.contracts.graph.manifest.FlatGraphMapping), which reports look-ups."""

    class WatchedSection(base):  # type: ignore[misc]
        def __init__(self, inner_dict: Any, look: Callable[[], None]) -> None:
            super().__init__(inner_dict)
            self._look = look

        def __getitem__(self, key: str) -> Any:
            self._look()
            return super().__getitem__(key)

    WatchedSection.__name__ = base.__name__
    return WatchedSection
