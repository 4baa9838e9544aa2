"""The ledger against a model of it: any interleaving of its moves, on the real server.

Workers here hold claims and sessions but execute nothing: they beat, finish, fail, give back, die, and
come back from the dead; messages are delivered in any order, twice or never; every call may be repeated,
as redis-py does when an answer is lost. After each move the keys in Redis are held against the model
(`tests.support.ledger_model`); at the end of each history everything that is still due is executed, and
every run must have ended and every key be owned or expire.

``RELAY_MODEL_EXAMPLES`` sets how many histories (`make model`: 2000), ``RELAY_MODEL_SEED`` replays a failure.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable
from typing import Any, ClassVar

import fakeredis
import msgspec
import pytest
import redis
from hypothesis import HealthCheck, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from tests.support.ledger_model import (
    ACTIVE,
    BLOCKED,
    CLOSE,
    COMMAND,
    DONE,
    OPEN,
    PLAN,
    RETRYING,
    RUNNING,
    SESSION,
    START,
    STOPPING,
    WAITING,
    RelationsModel,
    RunModel,
)
from tests.support.redis_server import RedisServer
from workers.contract.connection import connect
from workers.contract.keys import READ, Keys, addressed, files_of_warehouse
from workers.contract.messages import Limits, RunRequest
from workers.contract.purge import purge
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim, FenceLostError, Move, Refusal, StagedNode
from workers.sessions.warehouse_lock import Session, WarehouseLock

MAX_RUNS = 3
MOVES = {
    "submit": 1, "cancel": 1, "deliver": 8, "lose": 1, "double": 1, "forged": 1, "act": 8, "beat": 1,
    "stale_move": 1, "session": 6, "drain": 1, "session_beat": 1, "lease_runs_out": 1, "taken_over": 2,
    "session_runs_out": 1, "message_is_missed": 1, "deadline_passes": 1, "reap": 2, "append_events": 1, "purge": 1,
    "lock_runs_out": 1,
}  # fmt: skip
"""What may happen next, and how often."""
DEADLINE = "@deadline"
FINAL = '{"return_code":0}'
FILES = ["", "f1", "f1", "f2", "f1\nf2", "f1\nread f2", "read f1", "read f1\nread f2", "read f1\nf2"]
SERVERS = [""]
"""Warehouses: names of files that one process at a time may write, and servers. Histories have runs on both, or
on servers alone, so that they meet at relations."""
NAMES = [f"model.p.n{number:02}" for number in range(12)]


class RepeatingLedger(Ledger):
    """Makes a call twice if `twice` is set, as a client does whose first answer was lost."""

    twice = False

    def call(self, name: str, run_id: str, *args: Any) -> Any:
        answer = super().call(name, run_id, *args)
        if self.twice and name in ("claim", "enter", "finish", "giveback", "stage", "submit", "events"):
            self.twice = False
            again = super().call(name, run_id, *args)
            if name in ("claim", "enter"):
                assert self.without_publish(again) == self.without_publish(answer), "another answer"
        return answer

    @staticmethod
    def without_publish(answer: bytes) -> bytes:
        return answer.partition(b'"publish"')[0] if answer.startswith(b'{"publish"') is False else b""


@st.composite
def dags(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    """Up to twelve nodes: layers, diamonds, chains, loose ones."""
    layers = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    dag: dict[str, tuple[str, ...]] = {}
    for width in layers:
        above = list(dag)
        for _ in range(width):
            most = min(3, len(above))
            parents = draw(st.lists(st.sampled_from(above), max_size=most, unique=True)) if above else []
            dag[NAMES[len(dag)]] = tuple(parents)
    return dag


def locks_of(dag: dict[str, tuple[str, ...]], warehouse: str, shift: int) -> dict[str, str]:
    """Each node of a run on a server writes a relation of its own, but every fourth, which writes none."""
    return {} if warehouse else {
        node: f"r{NAMES.index(node) + shift}" for node in dag if NAMES.index(node) % 4 != 3
    }  # fmt: skip


def clash(one: str, other: str) -> bool:
    """Whether two warehouses have a file in common that one of them writes."""
    lines = {*one.split("\n")} - {""}, {*other.split("\n")} - {""}
    return any(
        mine.removeprefix(READ) == theirs.removeprefix(READ) and not (mine.startswith(READ) and theirs.startswith(READ))
        for mine in lines[0] for theirs in lines[1]
    )  # fmt: skip


class Held:
    """A claim in the hands of a worker, who may be dead without knowing."""

    def __init__(self, run: RunModel, claim: Claim, session: SessionHeld | None = None) -> None:
        self.run, self.claim, self.session = run, claim, session
        self.staged: dict[str, tuple[str, ...]] | None = None

    def __repr__(self) -> str:
        return f"{self.claim.step} of {self.run}, fence {self.claim.fence}"

    @property
    def valid(self) -> bool:
        return self.run.live and self.run.owns(self.claim.step, self.claim.fence)


class SessionHeld:
    """A session in the hands of a worker."""

    def __init__(self, run: RunModel, session: Session) -> None:
        self.run, self.session = run, session
        self.claim: Held | None = None
        self.lost = self.out = False

    def __repr__(self) -> str:
        return f"session of {self.run}"


class LedgerMachine(RuleBasedStateMachine):
    """Moves of producers, workers, the broker and the reaper."""

    client: ClassVar[redis.Redis]
    draw: Any
    warehouses: list[str]
    turns: int = 0
    line: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.keys = Keys("model")
        self.ledger = RepeatingLedger(self.client, keys=self.keys, lease_ms=3_600_000, result_ttl=1000)
        self.locks = WarehouseLock(
            self.ledger, lambda file, _: json.dumps({"file": file, "process": next(self.processes)})
        )
        self.processes = itertools.count(1)
        self.runs: dict[str, RunModel] = {}
        self.broker: list[tuple[str, str]] = []
        self.held: list[Held] = []
        self.sessions: list[SessionHeld] = []
        self.relations = RelationsModel()
        self.narrow: set[str] = set()  # runs that may have less steps under way than threads

    # -- helpers -----------------------------------------------------------------------------------

    def publish(self, run_id: str, steps: tuple[str, ...]) -> None:
        self.broker += [addressed(run_id, step) for step in steps]

    def settled(self, held: Held) -> None:
        self.held.remove(held)
        if held.session is not None:
            held.session.claim = None

    def claim(self, run: RunModel, step: str, session: SessionHeld | None = None) -> Held | None:
        fence = session.session.fence if session else None
        before = self.relations.before(run, step, self.runs.values())
        granted = self.ledger.claim(run.run_id, step, "w:1", session=fence)
        if isinstance(granted, Refusal):
            if run.live and granted.reason == "run is stopping":
                assert before is not None
                run.give_up(step)
            elif run.live and granted.reason.startswith("waiting for run"):
                assert before is not None, f"{step} of {run} waits for no run"
                assert before.run_id in granted.reason
                assert not run.refuses
                self.relations.wait(run, step)
            elif run.live and granted.reason == "waiting for its turn":
                assert step == PLAN
                run.steps[step] = OPEN
            elif run.live and run.steps.get(step) in (RETRYING, WAITING):
                assert granted.reason == ("left to the session" if run.in_session else "no free thread")
                run.steps[step] = OPEN
            elif run.live and run.steps.get(step) == OPEN:
                assert granted.reason in ("left to the session", "no free thread")
            self.publish(run.run_id, granted.publish)
            return None
        self.publish(run.run_id, granted.publish)
        run.claim(granted.step, granted.fence)
        assert granted.stopping == (run.state == STOPPING)
        assert granted.handed == run.handbacks.get(granted.step, 0)
        assert granted.lost_leases == (granted.step == CLOSE and run.lost_leases > 0)
        assert (session is not None) == run.in_session, "executed outside of its session"
        if granted.step in run.dag:
            for parent in run.parents(granted.step):
                assert run.steps[parent] == DONE, f"{granted.step} began before {parent} was done"
            assert granted.cause == run.cause(granted.step)
            assert granted.skip == bool(granted.cause)
            before = None if granted.skip else before
            assert granted.busy == (before.run_id if before else ""), "two write one relation"
            assert run.refuses or not before
            run.writing.discard(granted.step)
            if granted.step in run.locks and not granted.skip and not before:
                run.writing.add(granted.step)
        held = Held(run, granted, session)
        self.held.append(held)
        if session is not None:
            session.claim = held
            run.claimed = granted.step
        return held

    def finish(self, held: Held, move: Move, result: bytes = b"") -> bool:
        """Whether it was accepted; it must be exactly where the model says that the claim is valid."""
        valid = held.valid
        self.settled(held)
        try:
            publish = self.ledger.finish(held.claim, move, result=result)
        except FenceLostError:
            assert not valid, "a valid claim was refused"
            return False
        assert valid, "a claim that was lost was accepted"
        self.publish(held.run.run_id, publish)
        if result:
            held.run.results[held.claim.step] = result
        return True

    def stage(self, held: Held, dag: dict[str, tuple[str, ...]]) -> bool:
        children: dict[str, list[str]] = {node: [] for node in dag}
        for node, parents in dag.items():
            for parent in parents:
                children[parent].append(node)
        nodes = [
            StagedNode(
                node,
                place,
                max(1, len(parents)),
                tuple(children[node]),
                lock=held.run.locks.get(node, ""),
            )
            for place, (node, parents) in enumerate(dag.items())
        ]
        try:
            self.ledger.stage(
                held.claim, nodes, roots=tuple(n for n, parents in dag.items() if not parents), chunk=3
            )
        except FenceLostError:
            assert not held.valid
            return False
        assert held.valid or not dag
        return True

    def end(self, held: Held) -> None:
        move = Move(word="done", final=FINAL, final_state="succeeded")
        run = held.run
        written = {
            run.locks[step]: (run, step) for step in run.writing
            if run.steps.get(step) == RUNNING and step != held.claim.step
            and (self.client.zscore(self.keys.leases(), f"{run.run_id} {step}") or 0) > 1
        }  # fmt: skip
        if self.finish(held, move):
            run.end(held.claim.step)
            self.relations.abandoned |= written

    def overdue(self, run_id: str, step: str) -> None:
        for key in (self.keys.leases(), self.keys.watches()):
            self.client.zadd(key, {f"{run_id} {step}": 1}, xx=True)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """One move of those that are possible: hypothesis' own choice among rules seldom gets deep."""
        self.draw = data.draw
        possible = {
            "submit": len(self.runs) < MAX_RUNS, "deliver": self.broker, "lose": self.broker,
            "double": self.broker, "act": self.held, "beat": self.held, "stale_move": self.held,
            "session": self.idle(), "drain": self.idle(), "session_beat": self.sessions,
            "lease_runs_out": self.held, "taken_over": self.held, "session_runs_out": self.sessions,
            "lock_runs_out": self.relations.abandoned,
        }  # fmt: skip
        names = [name for name, weight in MOVES.items() if possible.get(name, True) for _ in range(weight)]
        move = self.draw(st.sampled_from(names))
        note(move)
        self.ledger.twice = self.draw(st.integers(0, 3)) == 3
        getattr(self, move)()
        self.ledger.twice = False

    def any_run(self) -> RunModel:
        return self.draw(st.sampled_from(list(self.runs.values())))

    def any_held(self) -> Held:
        return self.draw(st.sampled_from(self.held))

    def idle(self) -> list[SessionHeld]:
        return [each for each in self.sessions if each.claim is None]

    # -- producers ---------------------------------------------------------------------------------

    @initialize(
        dag=dags(), warehouse=st.sampled_from(["", "", "f1"]), threads=st.sampled_from([1, 2, 4]),
        turns=st.sampled_from([0, 0, 1, 2]), seconds=st.sampled_from([0, 3600]),
    )  # fmt: skip
    def first(
        self, dag: dict[str, tuple[str, ...]], warehouse: str, threads: int, turns: int, seconds: int
    ) -> None:
        self.turns = turns
        if turns:
            self.client.hset(self.keys.turns_rules(), mapping={"runs": turns, "seconds": seconds})
        self.warehouses = SERVERS if warehouse == "" else FILES
        for _ in range(max(2, turns + 1) if self.warehouses == SERVERS else 1):
            run = RunModel("", dag, threads, warehouse, True, PLAN, locks=locks_of(dag, warehouse, 0))
            self.add(run, begun=True)

    def submit(self) -> None:
        command = self.draw(st.integers(0, 5)) == 5
        dag, warehouse = {} if command else self.draw(dags()), self.draw(st.sampled_from(self.warehouses))
        run = RunModel(
            "", dag, self.draw(st.sampled_from([1, 2, 4])), warehouse, self.draw(st.booleans()),
            COMMAND if command else PLAN, locks=locks_of(dag, warehouse, self.draw(st.integers(0, 1))),
            refuses=self.draw(st.integers(0, 4)) == 4, has_deadline=self.draw(st.booleans()),
        )  # fmt: skip
        self.add(run, begun=self.draw(st.integers(0, 3)) > 0)

    def add(self, run: RunModel, *, begun: bool) -> None:
        """Record a run; where it is to have `begun`, its nodes are ready, unless its warehouse is taken."""
        run.run_id = f"20260101T000000-{len(self.runs):012x}"  # what is drawn must depend on no chance
        word = "compile" if run.first == COMMAND else "build"
        limits = Limits(deadline=3600 if run.has_deadline else 0)
        priority = 9 * (len(self.runs) % 2)
        step = self.ledger.submit(
            RunRequest(run_id=run.run_id, args=(word,), cwd="/p", project_dir="/p", limits=limits, priority=priority)
        )  # fmt: skip
        assert step == run.first
        self.runs[run.run_id] = run
        self.publish(run.run_id, (step,))
        while begun and step in (PLAN, START, SESSION):
            claims = len(self.held)
            self.receive(*self.broker.pop())
            if step != SESSION and len(self.held) == claims:
                return  # it waits for its turn
            if step == SESSION:
                if run.entered:
                    self.go_on(self.sessions[-1])
                    self.perform(self.held[-1], "success")
                return
            held = self.held[-1]
            self.perform(held, "success")
            if held in self.held:
                self.perform(held, "success")  # a plan is staged first
            if not self.broker or self.broker[-1][0] != run.run_id:
                return
            step = self.broker[-1][1]

    def cancel(self) -> None:
        run = self.any_run()
        state, publish = self.ledger.cancel(run.run_id)
        assert (state == ACTIVE) == (run.state == ACTIVE)
        run.cancel(has_turn=self.has_turn(run))
        self.publish(run.run_id, publish)

    def has_turn(self, run: RunModel) -> bool:
        held = {
            bool(self.client.hexists(self.keys.lock_readers(file), run.run_id))
            or self.client.hget(self.keys.lock(file), "run") == run.run_id.encode()
            for file in files_of_warehouse(run.warehouse)
        }
        assert len(held) == 1, "some of its files"
        return held == {True}

    def purge(self) -> None:
        """Ended runs go at once; the dead hold nothing by it."""
        named = [run.run_id for run in self.runs.values() if self.draw(st.booleans())]
        done = purge(self.ledger, named=named)
        ended = {run_id for run_id in named if not self.runs[run_id].live and not self.runs[run_id].purged}
        assert set(done.runs) == ended
        assert set(done.live) == {run_id for run_id in named if self.runs[run_id].live}
        for run_id in ended:
            self.runs[run_id].purged = True
            self.lose_session(self.runs[run_id])
        for session in self.sessions:  # a lock that ran out goes, whether its run was named or not
            session.lost |= session.out and not session.run.live

    # -- the broker --------------------------------------------------------------------------------

    def any_message(self) -> int:
        # most often the oldest
        return self.draw(st.one_of(st.just(0), st.integers(0, len(self.broker) - 1)))

    def deliver(self) -> None:
        self.receive(*self.broker.pop(self.any_message()))

    def lose(self) -> None:
        del self.broker[self.any_message()]

    def double(self) -> None:
        self.receive(*self.broker[self.any_message()])

    def receive(self, run_id: str, step: str) -> None:
        run = self.runs[run_id]
        if run.purged:
            assert self.ledger.claim(run_id, step, "w:1") == Refusal("unknown run")
            return
        if step != SESSION:
            self.claim(run, step)
            return
        entered = self.locks.enter(run_id, run.warehouse, "w:1")
        if isinstance(entered, str):
            return
        assert run.live
        for other in self.sessions:
            if clash(other.run.warehouse, run.warehouse):
                # a worker that was away for a whole lease after the end of its run is overtaken
                other.lost |= other.out and not other.run.live
                assert other.lost, "two sessions on one warehouse"
        for each in self.runs.values():
            if each is not run and clash(each.warehouse, run.warehouse) and each.entered:
                assert not each.live, "two runs mixed on one warehouse"
        self.publish(run_id, entered.publish)
        run.entered, run.claimed = True, ""
        self.sessions.append(SessionHeld(run, entered))

    def forged(self) -> None:
        run = self.any_run()
        waiting = [step for step, state in run.steps.items() if state in (BLOCKED, DONE, RUNNING)]
        step = self.draw(st.sampled_from([*waiting, "model.p.forged", SESSION]))
        answer = self.ledger.claim(run.run_id, step, "w:2")
        assert isinstance(answer, Refusal)
        self.publish(run.run_id, answer.publish)

    # -- workers -----------------------------------------------------------------------------------

    def act(self) -> None:
        held = self.any_held()
        ways = ["success"] * 8 + ["error", "fail_fast", "retry", "release", "handback", "broken"]
        if held.claim.step in held.run.dag:
            ways += ["error", "error", "retry", "retry"]
        self.perform(held, self.draw(st.sampled_from(ways)))

    def perform(self, held: Held, how: str) -> None:
        run, claim = held.run, held.claim
        if claim.skip and how == "retry":
            how = "release"
        ends = claim.step in (COMMAND, CLOSE) or (claim.stopping and claim.step == PLAN)
        if claim.step == COMMAND and run.warehouse and held.session is None and not claim.stopping:
            self.give_back(held, "release", {"mode": "session", "lock": run.warehouse})
        elif how in ("retry", "release", "handback"):
            self.give_back(held, how)
        elif ends or how == "broken":  # such as a request that this worker cannot use
            self.end(held)
        elif claim.step == PLAN:
            self.plan(held, how)
        elif claim.step == START:
            if self.finish(
                held, Move(word="success", stop="fail_fast" if how == "fail_fast" else None), b"s"
            ):
                run.finish(START, stop=how == "fail_fast")
        else:
            self.node(held, how)

    def plan(self, held: Held, how: str) -> None:
        run = held.run
        if held.staged is not run.dag and run.dag:
            # in chunks, and the other things go on; where it finds other nodes it dies of it
            held.staged = run.dag if how == "success" else self.draw(dags())
            if not self.stage(held, held.staged) or held.staged is not run.dag:
                self.overdue(run.run_id, PLAN)
                self.settled(held)
            return
        facts: dict[str, str | int | float] = {
            "parallel": run.threads, "mode": "session" if run.warehouse else "message", "lock": run.warehouse,
            "relation_locks": "refuse" if run.refuses else "wait",
        }  # fmt: skip
        if self.finish(held, Move(word="planned", facts=facts, nodes=len(run.dag))):
            run.finish_plan()

    def node(self, held: Held, how: str) -> None:
        run, claim = held.run, held.claim
        bad = (how in ("error", "fail_fast") or claim.busy != "") and not claim.skip
        move = Move(
            word="skipped" if claim.skip else "error" if bad else "success", cache=("[]",),
            blocks=run.skips_block if claim.skip else bad,
            stop="fail_fast" if how == "fail_fast" and bad else None,
        )  # fmt: skip
        if self.finish(held, move, f"{how} {claim.fence}".encode()):
            states: Any = self.client.hgetall(self.keys.states(run.run_id))
            left = frozenset(
                step.decode() for step, state in states.items()
                if step.decode() in run.dag and state in (b"ready", b"queued")
            )  # fmt: skip
            run.finish(claim.step, blocks=move.blocks, stop=move.stop is not None, left=left)

    def give_back(self, held: Held, kind: str, facts: dict[str, str | int | float] | None = None) -> None:
        run, claim, valid = held.run, held.claim, held.valid
        self.settled(held)
        try:
            publish = self.ledger.give_back(claim, kind, wait=1, facts=facts)
        except FenceLostError:
            assert not valid, "a valid claim was refused"
            return
        assert valid, "a claim that was lost was accepted"
        run.in_session |= facts is not None
        run.handbacks[claim.step] = run.handbacks.get(claim.step, 0) + (kind == "handback")
        run.requeue(claim.step, RETRYING if kind == "retry" else OPEN)
        self.publish(run.run_id, publish)
        if kind == "retry":
            self.publish(run.run_id, (claim.step,))

    def beat(self) -> None:
        held = self.any_held()
        answer = self.ledger.beat(held.run.run_id, [(held.claim.step, held.claim.fence)])
        stop = held.run.state != ACTIVE and held.claim.step != CLOSE
        owned = held.run.owns(held.claim.step, held.claim.fence) and not held.run.purged
        if owned and stop and held.claim.grace:
            assert answer in (["ok"], ["stop"])  # the clock decides
        else:
            assert answer == [("stop" if stop else "ok") if owned else "lost"]

    def stale_move(self) -> None:
        """A worker presents a fence that no claim returned."""
        old = msgspec.structs.replace(self.any_held().claim, fence=0)
        with pytest.raises(FenceLostError):
            self.ledger.finish(old, Move(word="success"), result=b"forged")
        with pytest.raises(FenceLostError):
            self.ledger.give_back(old, "retry")

    # -- sessions ----------------------------------------------------------------------------------

    def session(self) -> None:
        self.go_on(self.draw(st.sampled_from(self.idle())))

    def drain(self) -> None:
        self.leave(self.draw(st.sampled_from(self.idle())))

    def go_on(self, session: SessionHeld) -> None:
        if self.claim(session.run, "", session) is None:
            self.leave(session)

    def leave(self, session: SessionHeld) -> None:
        self.sessions.remove(session)
        self.publish(session.run.run_id, self.locks.leave(session.session))

    def lose_session(self, run: RunModel) -> None:
        run.lose_session()
        for session in self.sessions:
            session.lost |= session.run is run

    def session_beat(self) -> None:
        session = self.draw(st.sampled_from(self.sessions))
        answer = self.ledger.beat(session.run.run_id, [session.session.held])
        assert answer == ["lost" if session.lost else "ok"], f"{session}: {answer}"
        session.out = False

    # -- time --------------------------------------------------------------------------------------

    def lease_runs_out(self) -> None:
        held = self.any_held()
        self.overdue(held.run.run_id, held.claim.step)

    def taken_over(self) -> None:
        """A worker is stopped for so long that others go on without it; or it is dead."""
        held = self.any_held()
        self.overdue(held.run.run_id, held.claim.step)
        if held.session is not None:
            self.session_out(held.session)
        if self.draw(st.booleans()):
            self.settled(held)
        self.reap()
        if self.broker:
            self.receive(*self.broker.pop())

    def session_runs_out(self) -> None:
        self.session_out(self.draw(st.sampled_from(self.sessions)))

    def session_out(self, session: SessionHeld) -> None:
        session.out = True
        self.overdue(session.run.run_id, SESSION)
        for file in session.session.files:
            key, readers, run_id = self.keys.lock(file), self.keys.lock_readers(file), session.run.run_id
            if self.client.hget(key, "run") == run_id.encode():
                self.client.hset(key, "expires", 0)
            raw = self.client.hget(readers, run_id)
            if raw:
                self.client.hset(readers, run_id, json.dumps({**json.loads(raw), "expires": 0}))

    def message_is_missed(self) -> None:
        run = self.any_run()
        self.overdue(run.run_id, self.draw(st.sampled_from([*run.steps, SESSION])))

    def deadline_passes(self) -> None:
        run = self.any_run()
        self.overdue(run.run_id, DEADLINE)
        if run.has_deadline:
            self.reap_one(run.run_id, DEADLINE)
            assert run.state == STOPPING

    def reap(self) -> None:
        for run_id, step in self.due():
            self.reap_one(run_id, step)

    def due(self) -> list[tuple[str, str]]:
        """What a move made overdue; on a slow machine a watch runs out by itself, and chance comes in."""
        made = {
            member.decode()
            for key in (self.keys.leases(), self.keys.watches())
            for member in self.client.zrange(key, 1, 1, byscore=True)
        }
        return [pair for pair in self.ledger.overdue(queue_empty=True, limit=1000) if " ".join(pair) in made]

    def reap_one(self, run_id: str, step: str) -> None:
        run = self.runs[run_id]
        answer = self.ledger.reap(run_id, step)
        assert (answer["what"] == "deadline") == (step == DEADLINE and run.has_deadline)
        if step == DEADLINE and run.has_deadline:
            run.cancel(has_turn=self.has_turn(run))
        elif step == SESSION and (answer["what"] == "lost" or not run.live):
            self.lose_session(run)
        elif answer["what"] == "lost":
            assert run.steps[step] == RUNNING
            run.lose(step)
        elif answer["what"] == "publish":
            assert step == SESSION or run.steps[step] in (OPEN, RETRYING, WAITING)
            assert self.relations.before(run, step, self.runs.values()) is None or run.steps[step] != WAITING
            self.publish(run_id, (step,))
        self.publish(run_id, answer["publish"])

    def lock_runs_out(self) -> None:
        """The lease of a worker that wrote when its run was ended."""
        relation = self.draw(st.sampled_from(sorted(self.relations.abandoned)))
        assert self.client.pttl(self.keys.relation(relation)) > 0
        self.client.delete(self.keys.relation(relation))
        del self.relations.abandoned[relation]

    def append_events(self) -> None:
        self.ledger.append_events(self.any_run().run_id, f"p{self.draw(st.integers(0, 1))}", 1, [b"{}"])

    # -- what must always hold ---------------------------------------------------------------------

    @invariant()
    def redis_agrees(self) -> None:
        leases = {each.decode() for each in self.client.zrange(self.keys.leases(), 0, -1)}
        watches = {each.decode() for each in self.client.zrange(self.keys.watches(), 0, -1)}
        assert not leases & watches
        expected_leases: set[str] = set()
        expected_watches: set[str] = set()
        turns, line = self.turns_and_line()
        called: set[str] = set()
        for run in (each for each in self.runs.values() if not each.purged):
            keys = self.keys
            with self.client.pipeline(transaction=False) as pipe:
                pipe.hgetall(keys.run(run.run_id))
                pipe.hgetall(keys.states(run.run_id))
                pipe.hgetall(keys.waiting(run.run_id))
                pipe.zrange(keys.ready(run.run_id), 0, -1)
                pipe.hgetall(keys.results(run.run_id))
                pipe.zscore(keys.active(), run.run_id)
                raw = pipe.execute()
            facts, states, waiting = ({k.decode(): v.decode() for k, v in each.items()} for each in raw[:3])
            ready = {each.decode() for each in raw[3]}
            session = states.pop(SESSION, "")
            assert (raw[5] is not None) == run.live
            assert {k.decode(): v for k, v in raw[4].items()} == run.results
            if not run.live:
                assert facts["state"] == "succeeded"
                expected_leases |= {f"{run.run_id} {SESSION}"} if session == "running" else set()
                continue
            self.run_agrees(run, facts, states, waiting, ready, session)
            plan = f"{run.run_id} {PLAN}"
            assert run.run_id not in line or (run.state == ACTIVE and not run.in_session)
            expected_watches |= {plan} if run.run_id in line else set()
            if run.run_id in turns and states.get(PLAN) in ("done", "ready"):  # ready: it was given back
                called.add(plan)
            if ready and not run.in_session and run.state == ACTIVE and self.turns:
                assert run.run_id in turns | line, f"{run} is forgotten"
            if ready and not run.in_session and run.run_id not in line:
                self.hands_out(run, int(facts["inflight"]), plan in watches, bool(line))
            expected_leases |= {f"{run.run_id} {DEADLINE}"} if run.has_deadline else set()
            expected_leases |= {f"{run.run_id} {s}" for s, state in states.items() if state == "running"}
            expected_watches |= {
                f"{run.run_id} {s}"
                for s, state in states.items()
                if state in ("queued", "retrying", "waiting")
            }
            expected_leases |= {f"{run.run_id} {SESSION}"} if session == "running" else set()
            expected_watches |= {f"{run.run_id} {SESSION}"} if session in ("queued", "parked") else set()
        self.line = bool(line)
        assert leases == expected_leases
        assert watches - called == expected_watches - called

    def run_agrees(
        self, run: RunModel, facts: dict[str, str], states: dict[str, str], waiting: dict[str, str],
        ready: set[str], session: str,
    ) -> None:  # fmt: skip
        assert facts["state"] == run.state
        open_states = {"ready", "queued"}
        known = {
            s: OPEN if state in open_states or (s, state) == (PLAN, "waiting") else state
            for s, state in states.items()
        }
        if not run.planned:  # what a plan staged so far does not count yet
            known = {s: state for s, state in known.items() if s.startswith("@")}
        assert known == run.steps, f"Redis has {known}, expected {run.steps}"
        assert ready == {s for s, state in states.items() if state == "ready"}
        queued = sum(state == "queued" for state in states.values())
        running = sum(state == "running" for state in states.values())
        assert (int(facts["queued"]), int(facts["inflight"])) == (queued, queued + running)
        assert queued + running <= run.threads or not run.planned
        if run.planned:
            assert int(facts["pending"]) == run.undone()
            assert int(facts["total"]) == len(run.dag)
            assert int(facts["done"]) == run.finished
        if run.planned and run.state == ACTIVE:
            assert {n: int(left) for n, left in waiting.items()} == {
                n: sum(run.steps.get(parent) != DONE for parent in run.parents(n)) for n in run.dag
            }
        assert facts["mode"] == ("session" if run.in_session else "message")
        if ready and run.in_session:
            assert session in ("queued", "parked", "running"), "no session is due although steps are ready"

    def hands_out(self, run: RunModel, busy: int, called: bool, line: bool) -> None:
        """A run with steps that are ready has as many under way as it may have.

        While runs wait in line, that is one. When the line gets empty, the run is sent a message; if that is lost, the
        end of the step under way hands out more.
        """
        if line:
            self.narrow.add(run.run_id)
        elif self.line and run.run_id in self.narrow and not called and busy < run.threads:
            assert (run.run_id, PLAN) in self.broker, "the line is empty and the run does not learn of it"
        narrow = run.run_id in self.narrow
        assert busy >= (1 if narrow else run.threads) or called, "a thread is free and nothing is handed out"
        if busy >= run.threads and not line:
            self.narrow.discard(run.run_id)

    def turns_and_line(self) -> tuple[set[str], set[str]]:
        """Runs that have a turn, and those that wait for one: all of them go on, and no turn is free meanwhile."""
        turns = {raw.decode() for raw in self.client.zrange(self.keys.turns(), 0, -1)}
        line = {raw.decode() for raw in self.client.zrange(self.keys.turns_line(), 0, -1)}
        assert len(turns) <= self.turns
        assert not line or len(turns) == self.turns, "a turn is free and a run waits for one"
        assert not turns & line
        assert all(self.runs[run_id].live for run_id in turns | line)
        return turns, line

    @invariant()
    def every_key_is_owned(self) -> None:
        common = {
            self.keys.leases(), self.keys.watches(), self.keys.active(), self.keys.finished(), self.keys.strays(),
            self.keys.turns(), self.keys.turns_line(), self.keys.turns_rules(),
        }  # fmt: skip
        found = [raw.decode() for raw in self.client.scan_iter(count=1000)]
        ended = [key for key in found if key.startswith(self.keys.run("")) and not self.owner(key).live]
        with self.client.pipeline(transaction=False) as pipe:
            for key in ended:
                pipe.ttl(key)
            for key, ttl in zip(ended, pipe.execute(), strict=True):
                assert not self.owner(key).purged, f"{key} came back"
                assert 0 < ttl <= 1000, f"{key} stays for ever"
        for key in found:
            if key.startswith(self.keys.relation("")):
                name, _, rest = key.removeprefix(self.keys.relation("")).partition(":")
                assert name in self.names()
                assert rest != "writer" or self.client.ttl(key) > 0
            elif key.startswith(self.keys.locks()):
                self.lock_is_owned(key)
            else:
                assert key in common or key.startswith(self.keys.run(""))

    @invariant()
    def lost_holders_are_recorded(self) -> None:
        strays = {raw.decode() for raw in self.client.hkeys(self.keys.strays())}
        lost = [each for each in self.sessions if each.lost]
        assert strays <= {holder for each in lost for holder in each.session.holders}
        assert strays >= {holder for each in lost if not each.run.purged for holder in each.session.holders}

    def names(self) -> set[str]:
        return {name for run in self.runs.values() for name in run.locks.values()}

    @invariant()
    def one_writer_a_relation(self) -> None:
        """A lock is there for as long as a node writes; waiting nodes are in line."""
        names = sorted(self.names())
        with self.client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hmget(self.keys.relation(name), "run", "step")
                pipe.pttl(self.keys.relation(name))
                pipe.lrange(self.keys.relation_waiters(name), 0, -1)
            raw = iter(pipe.execute())
        for name in names:
            holder, ttl, line = next(raw), next(raw), next(raw)
            writer = self.relations.writer(name, self.runs.values())
            expected = [writer[0].run_id, writer[1]] if writer else [None, None]
            assert [each and each.decode() for each in holder] == expected
            assert (ttl > 0) == (name in self.relations.abandoned)
            in_line = self.relations.line(name)
            assert [each.decode() for each in line] == [f"{run.run_id} {step}" for run, step in in_line]
            valid = [
                each for each in self.held
                if each.valid and each.run.locks.get(each.claim.step) == name
                and not each.claim.skip and not each.claim.busy
            ]  # fmt: skip
            assert len(valid) <= 1, f"{valid} write {name}"

    def owner(self, key: str) -> RunModel:
        return self.runs[key.split(":")[2]]

    def lock_is_owned(self, key: str) -> None:
        if key.endswith(":waiters"):
            for raw in self.client.lrange(key, 0, -1):
                assert self.runs[raw.decode()].live, "a run that has ended waits in line"
            return
        if key.endswith(":readers"):
            holders = [raw.decode() for raw in self.client.hkeys(key)]
        else:
            holders = [self.client.hget(key, "run").decode()]
        for holder in holders:
            unlocked = [each for each in self.sessions if each.run.run_id == holder]
            session = self.client.hget(self.keys.states(holder), SESSION)
            assert self.runs[holder].live or unlocked or session == b"running", "a lock without a holder"

    # -- the end of a history ----------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.client.flushall()

    def settle(self) -> None:
        """Everything that is due is executed; the dead stay dead; nothing further goes wrong."""
        self.ledger.twice = False
        for _ in range(40 + 20 * sum(1 + len(run.dag) for run in self.runs.values())):
            if self.held:
                self.perform(self.held[0], "success")
            elif self.sessions:
                self.go_on(self.sessions[0])
            elif self.broker:
                self.receive(*self.broker.pop(0))
            else:
                for name in list(self.relations.abandoned):
                    self.client.delete(self.keys.relation(name))
                    del self.relations.abandoned[name]
                for key in (self.keys.leases(), self.keys.watches()):
                    for member in self.client.zrange(key, 0, -1):
                        self.client.zadd(key, {member: 1})
                overdue = self.due()
                for run_id, step in overdue:
                    self.reap_one(run_id, step)
                if not overdue:
                    break
            self.redis_agrees()
            self.one_writer_a_relation()
        else:
            raise AssertionError(f"it never comes to rest: {self.broker}")
        left = [(run.run_id, run.steps) for run in self.runs.values() if run.live]
        assert not left, f"runs that never end: {left}"
        self.every_key_is_owned()
        keys = self.keys
        for key in (
            keys.leases(),
            keys.watches(),
            keys.active(),
            keys.strays(),
            keys.turns(),
            keys.turns_line(),
        ):
            assert not self.client.exists(key)
        locks = {raw.decode() for raw in self.client.scan_iter(self.keys.locks() + "*")}
        assert not locks - {self.keys.relation_writer(name) for name in self.names()}


def check(client: redis.Redis, examples: int) -> None:
    number = int(os.environ.get("RELAY_MODEL_SEED") or random.SystemRandom().randrange(2**32))
    print(f"replay with RELAY_MODEL_SEED={number} RELAY_MODEL_EXAMPLES={examples}")
    machine = seed(number)(type("Machine", (LedgerMachine,), {"client": client}))
    run_machine(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=70, deadline=None, derandomize=False, database=None,
            print_blob=True, suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
        ),
    )  # fmt: skip


@pytest.mark.timeout(0)
def test_the_ledger_agrees_with_its_model(make_redis: Callable[..., RedisServer]) -> None:
    with connect(make_redis().url) as client:  # every key in it has to be explained
        check(client, int(os.environ.get("RELAY_MODEL_EXAMPLES", "50")))


def test_the_ledger_on_fakeredis_agrees_with_its_model() -> None:
    """Tests that run on fakeredis see the same ledger as on a server."""
    check(fakeredis.FakeRedis(), 3)
