"""Model of the ledger in plain Python, for comparison with the Lua scripts. It shares no code with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

PLAN, START, CLOSE, COMMAND, SESSION = "@plan", "@start", "@close", "@command", "@session"
BLOCKED, OPEN, RUNNING, RETRYING, DONE = "blocked", "open", "running", "retrying", "done"
WAITING = "waiting"
ACTIVE, STOPPING, ENDED = "active", "stopping", "ended"


@dataclass(repr=False, eq=False)
class RunModel:
    """One run.

    Attributes:
        dag: node → its parents; parents come first.
        skips_block: whether a skipped node makes its descendants skip (dbt build).
        steps: step → blocked, open (ready or published), running, retrying, waiting or done.
        locks: node → the relation that it writes.
        refuses: whether a node ends with an error in place of waiting for a relation.
        writing: nodes that got the lock of their relation with their last claim.
        blockers: failed nodes in the order in which they finished.
        entered: whether a session of the run ever had the warehouse.
        claimed: step that its session claimed last.
        failing: whether a node failed with fail-fast: the run stops when the next node is released or none is left.
        has_deadline: whether it has a deadline that has not passed.
        handbacks: step → how often a stopping worker handed it back.
        lost_leases: number of executions and sessions that lost their lease while the run was active.
    """

    run_id: str
    dag: dict[str, tuple[str, ...]]
    threads: int
    warehouse: str
    skips_block: bool
    first: str
    state: str = ACTIVE
    planned: bool = False
    in_session: bool = False
    entered: bool = False
    steps: dict[str, str] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)
    results: dict[str, bytes] = field(default_factory=dict)
    blockers: list[str] = field(default_factory=list)
    finished: int = 0
    purged: bool = False
    claimed: str = ""
    has_deadline: bool = False
    lost_leases: int = 0
    handbacks: dict[str, int] = field(default_factory=dict)
    locks: dict[str, str] = field(default_factory=dict)
    refuses: bool = False
    writing: set[str] = field(default_factory=set)
    failing: bool = False

    def __post_init__(self) -> None:
        self.steps[self.first] = OPEN

    def __repr__(self) -> str:
        return f"run {int(self.run_id[-4:], 16)}"

    @property
    def live(self) -> bool:
        return self.state != ENDED

    def parents(self, node: str) -> tuple[str, ...]:
        """Steps that a node waits for."""
        return self.dag[node] or (START,)

    def children(self, step: str) -> list[str]:
        return [node for node in self.dag if step in self.parents(node)]

    def ancestors(self, node: str) -> set[str]:
        found: set[str] = set()
        for parent in self.dag[node]:
            found |= {parent} | self.ancestors(parent)
        return found

    def cause(self, node: str) -> str:
        """The failed ancestor that makes a node skip: the one that finished last; empty if there is none."""
        above = self.ancestors(node)
        return next((step for step in reversed(self.blockers) if step in above), "")

    def undone(self) -> int:
        return sum(self.steps[node] != DONE for node in self.dag)

    # moves

    def claim(self, step: str, fence: int) -> None:
        assert self.live, f"{step} of an ended run was claimed"
        assert self.steps.get(step) in (OPEN, RETRYING, WAITING), (
            f"{step} was claimed while {self.steps.get(step)}"
        )
        assert fence > self.fences.get(step, 0), f"the fence of {step} did not grow"
        self.steps[step], self.fences[step] = RUNNING, fence

    def owns(self, step: str, fence: int) -> bool:
        return self.fences.get(step) == fence and self.steps.get(step) == RUNNING

    def finish_plan(self) -> None:
        self.steps[PLAN] = DONE
        self.planned = True
        self.in_session = bool(self.warehouse)
        self.steps.update(dict.fromkeys(self.dag, BLOCKED))
        if self.state == STOPPING:
            self._drop_what_has_not_begun()
        elif self.dag:
            self.steps[START] = OPEN
        self._close_when_done()

    def finish(
        self, step: str, *, blocks: bool = False, stop: bool = False, left: frozenset[str] = frozenset()
    ) -> None:
        """A step is done. `left`: nodes that the ledger still lets start although this step stopped the run."""
        beside = {node for node in self.dag if self.steps.get(node) == OPEN}
        self.steps[step] = DONE
        if step in self.dag:
            self.finished += 1
        if blocks:
            self.blockers.append(step)
        if stop and self.state == ACTIVE:
            self.failing = step in self.dag
            if not self.failing:
                self._stop()
        if self.state == ACTIVE:
            released = False
            for child in self.children(step):
                if all(self.steps[parent] == DONE for parent in self.parents(child)):
                    assert self.steps[child] == BLOCKED, f"{child} was released twice"
                    self.steps[child], released = OPEN, True
            if self.failing and (released or BLOCKED not in (self.steps[node] for node in self.dag)):
                assert left <= beside, f"{left - beside} were not open"
                if self.in_session:
                    assert len(left) == min(self.threads - 1, len(beside))
                self._stop(left)
        self._close_when_done()

    def end(self, step: str) -> None:
        self.steps[step] = DONE
        self.state = ENDED
        self.has_deadline = False

    def requeue(self, step: str, to: str) -> None:
        """A step is given back, or its worker was lost."""
        if self.state == STOPPING and (step in self.dag or step == START):
            self.steps[step] = DONE
            self._close_when_done()
        else:
            self.steps[step] = to

    def lose(self, step: str) -> None:
        self.lost_leases += 1
        self.fences[step] += 1
        self.requeue(step, OPEN)

    def lose_session(self) -> None:
        """The session is lost, and the step that it executes with it."""
        self.lost_leases += 1
        if self.live and self.steps.get(self.claimed) == RUNNING:
            self.lose(self.claimed)

    def cancel(self, *, has_turn: bool) -> None:
        """Cancel the run. Without its turn on the warehouse, it ends without a session."""
        if self.state == ACTIVE:
            self._stop()
            assert has_turn or not self.entered
            self.in_session &= has_turn
            self._close_when_done()

    def give_up(self, node: str) -> None:
        """End a node that would have to wait for its relation while the run is stopping."""
        assert self.state == STOPPING
        self.steps[node] = DONE
        self._close_when_done()

    def _stop(self, left: frozenset[str] = frozenset()) -> None:
        self.state = STOPPING
        self.has_deadline = False
        if self.planned:
            self._drop_what_has_not_begun(left)

    def _drop_what_has_not_begun(self, left: frozenset[str] = frozenset()) -> None:
        for step in (*self.dag, START):
            if step in self.steps and self.steps[step] != RUNNING and step not in left:
                self.steps[step] = DONE

    def _close_when_done(self) -> None:
        if (
            self.planned and not self.undone() and CLOSE not in self.steps
            and self.steps.get(START) != RUNNING
        ):  # fmt: skip
            self.steps[CLOSE] = OPEN


class RelationsModel:
    """Locks of relations: which node writes each, and the queue of nodes that wait for it.

    Attributes:
        abandoned: relation whose run ended while a worker wrote it → that run and node.
    """

    def __init__(self) -> None:
        self._line: list[tuple[RunModel, str]] = []
        self.abandoned: dict[str, tuple[RunModel, str]] = {}

    def writer(self, relation: str, runs: Iterable[RunModel]) -> tuple[RunModel, str] | None:
        """The run and node that write a relation."""
        found = [
            (run, node) for run in runs for node, name in run.locks.items()
            if name == relation and run.live and node in run.writing and run.steps.get(node) == RUNNING
        ]  # fmt: skip
        found += [self.abandoned[relation]] if relation in self.abandoned else []
        assert len(found) <= 1, f"{relation} is written by {found}"
        return found[0] if found else None

    def line(self, relation: str) -> list[tuple[RunModel, str]]:
        """Runs and nodes that wait for a relation, in order of arrival."""
        return [
            (run, node) for run, node in self._line
            if run.live and run.locks[node] == relation and run.steps[node] == WAITING
        ]  # fmt: skip

    def before(self, run: RunModel, node: str, runs: Iterable[RunModel]) -> RunModel | None:
        """The run that a node has to wait for, or None."""
        if node not in run.locks:
            return None
        writer = self.writer(run.locks[node], runs)
        first = next(iter(self.line(run.locks[node])), (run, node))
        return writer[0] if writer else None if first == (run, node) else first[0]

    def wait(self, run: RunModel, node: str) -> None:
        """Put a node at the end of the queue, unless it is in it."""
        if run.steps[node] != WAITING:
            self._line = [each for each in self._line if each != (run, node)] + [(run, node)]
        run.steps[node] = WAITING
