"""Moves of the ledger, each on fakeredis and on a real server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from workers.contract import run_store
from workers.contract.keys import SESSION, new_run_id
from workers.contract.messages import Limits, RunRequest
from workers.contract.results import Attempt
from workers.ledger.ledger import MAX_REASONS, OTHER_REASONS, PATIENCE_MS, Ledger
from workers.ledger.records import Claim, FenceLostError, Move, Refusal, StagedNode
from workers.sessions.warehouse_lock import Session, WarehouseLock

OWNER = "host:1"


def submit(ledger: Ledger, *args: str, **fields: Any) -> str:
    run_id = new_run_id()
    ledger.submit(RunRequest(run_id=run_id, args=args or ("build",), cwd="/p", project_dir="/p", **fields))
    return run_id


def claim(ledger: Ledger, run_id: str, step: str, session: int | None = None) -> Claim:
    granted = ledger.claim(run_id, step, OWNER, session=session)
    assert isinstance(granted, Claim), granted
    return granted


def chain(*names: str) -> list[StagedNode]:
    """Nodes in a row, each the next one's parent."""
    return [
        StagedNode(f"model.p.{name}", place, 1, tuple(f"model.p.{n}" for n in names[place + 1 : place + 2]))
        for place, name in enumerate(names)
    ]


def planned(
    ledger: Ledger,
    nodes: list[StagedNode],
    *,
    parallel: int = 4,
    lock: str = "",
    roots: int = 1,
    limits: Limits | None = None,
) -> tuple[str, tuple[str, ...]]:
    """A run whose plan and start are done; the steps that were handed out then."""
    run_id = submit(ledger, limits=limits or Limits())
    plan = claim(ledger, run_id, "@plan")
    ledger.stage(plan, nodes, roots=tuple(node.id for node in nodes[:roots]))
    facts: dict[str, str | int | float] = {
        "parallel": parallel, "mode": "session" if lock else "message", "lock": lock,
    }  # fmt: skip
    handed = ledger.finish(plan, Move(word="planned", facts=facts, nodes=len(nodes)))
    if lock:
        assert handed == (SESSION,)
        return run_id, handed
    assert handed == ("@start",)
    return run_id, ledger.finish(claim(ledger, run_id, "@start"), Move(word="success"))


def test_a_run_goes_through_its_steps_in_order(ledger: Ledger) -> None:
    run_id, handed = planned(ledger, chain("a", "b"))
    assert handed == ("model.p.a",)
    assert isinstance(ledger.claim(run_id, "model.p.b", OWNER), Refusal)
    first = claim(ledger, run_id, "model.p.a")
    assert first.index == 1
    handed = ledger.finish(first, Move(word="success"), result=b"{}")
    assert handed == ("model.p.b",)
    handed = ledger.finish(claim(ledger, run_id, "model.p.b"), Move(word="success"), result=b"{}")
    assert handed == ("@close",)
    last = Move(word="done", final='{"return_code":0}', final_state="succeeded")
    assert ledger.finish(claim(ledger, run_id, "@close"), last) == ()
    assert ledger.fact(run_id, "state") == "succeeded"
    assert ledger.active_runs() == []
    word = ledger.final(run_id)
    assert word is not None
    assert word.return_code == 0


def test_repeated_submit_records_one_run(ledger: Ledger) -> None:
    request = RunRequest(run_id=new_run_id(), args=("run",), cwd="/p", project_dir="/p")
    ledger.submit(request)
    claim(ledger, request.run_id, "@plan")
    ledger.submit(request)
    assert isinstance(ledger.claim(request.run_id, "@plan", OWNER), Refusal)


def test_a_second_delivery_does_nothing(ledger: Ledger) -> None:
    run_id = submit(ledger)
    claim(ledger, run_id, "@plan")
    refused = ledger.claim(run_id, "@plan", "other:2")
    assert isinstance(refused, Refusal)
    assert refused.reason == "step is running"


def test_unknown_runs_and_steps_are_refused(ledger: Ledger) -> None:
    assert ledger.claim(new_run_id(), "@plan", OWNER) == Refusal("unknown run")
    assert ledger.claim(submit(ledger), "model.p.forged", OWNER) == Refusal("unknown step")


def test_finishing_twice_releases_children_once(ledger: Ledger) -> None:
    run_id, _ = planned(ledger, chain("a", "b"))
    first = claim(ledger, run_id, "model.p.a")
    assert ledger.finish(first, Move(word="success"), result=b"1") == ("model.p.b",)
    assert ledger.finish(first, Move(word="error", blocks=True), result=b"2") == ()
    assert ledger.result(run_id, "model.p.a") == b"1"
    assert not claim(ledger, run_id, "model.p.b").skip


def test_a_node_waits_for_all_of_its_parents(ledger: Ledger) -> None:
    nodes = [
        StagedNode("model.p.a", 0, 1, ("model.p.c",)),
        StagedNode("model.p.b", 0, 1, ("model.p.c",)),
        StagedNode("model.p.c", 1, 2, ()),
    ]
    run_id, handed = planned(ledger, nodes, roots=2)
    assert handed == ("model.p.a", "model.p.b")
    assert ledger.finish(claim(ledger, run_id, "model.p.a"), Move(word="success")) == ()
    assert ledger.finish(claim(ledger, run_id, "model.p.b"), Move(word="success")) == ("model.p.c",)


@pytest.mark.parametrize("chunk", [100, 5000])
def test_thousands_of_nodes_that_become_ready_at_once(ledger: Ledger, chunk: int) -> None:
    """More than a command takes at once, in the plan's chunks and in the move that releases them."""
    nodes = [StagedNode(f"model.p.{number:04}", number % 2, 1, ()) for number in range(2500)]
    run_id = submit(ledger)
    plan = claim(ledger, run_id, "@plan")
    ledger.stage(plan, nodes, roots=tuple(node.id for node in nodes), chunk=chunk)
    facts: dict[str, str | int | float] = {"parallel": 3, "mode": "message"}
    ledger.finish(plan, Move(word="planned", facts=facts, nodes=len(nodes)))
    due = ledger.finish(claim(ledger, run_id, "@start"), Move(word="success"))
    assert due == ("model.p.0000", "model.p.0002", "model.p.0004")  # the least deep ones first
    states: Any = ledger.client.hgetall(ledger.keys.states(run_id))
    assert Counter(states.values()) == {b"ready": 2497, b"queued": 3, b"done": 2}
    assert ledger.client.zcard(ledger.keys.ready(run_id)) == 2497


def test_a_failure_skips_everything_below_it_and_nothing_else(ledger: Ledger) -> None:
    nodes = [
        StagedNode("model.p.a", 0, 1, ("model.p.b",)),
        StagedNode("model.p.x", 0, 1, ()),
        StagedNode("model.p.b", 1, 1, ("model.p.c",)),
        StagedNode("model.p.c", 2, 1, ()),
    ]
    run_id, _ = planned(ledger, nodes, roots=2)
    ledger.finish(claim(ledger, run_id, "model.p.a"), Move(word="error", blocks=True))
    skipped = claim(ledger, run_id, "model.p.b")
    assert (skipped.skip, skipped.cause) == (True, "model.p.a")
    assert not claim(ledger, run_id, "model.p.x").skip
    ledger.finish(skipped, Move(word="skipped"))
    assert claim(ledger, run_id, "model.p.c").skip


def test_no_more_nodes_at_once_than_threads(ledger: Ledger) -> None:
    nodes = [StagedNode(f"model.p.n{place}", 0, 1, ()) for place in range(5)]
    run_id, handed = planned(ledger, nodes, parallel=2, roots=5)
    assert handed == ("model.p.n0", "model.p.n1")
    assert ledger.dispatch(run_id) == ()
    first = claim(ledger, run_id, "model.p.n0")
    assert ledger.dispatch(run_id) == ()
    assert ledger.finish(first, Move(word="success")) == ("model.p.n2",)


def test_nodes_start_in_the_order_in_which_they_became_ready(ledger: Ledger) -> None:
    nodes = [
        StagedNode("model.p.a", 0, 1, ("model.p.deep",)),
        StagedNode("model.p.b", 0, 1, ("model.p.child",)),
        StagedNode("model.p.child", 1, 1, ()),
        StagedNode("model.p.deep", 2, 1, ()),
    ]
    run_id, handed = planned(ledger, nodes, parallel=1, roots=2)
    order = []
    while handed and handed != ("@close",):
        step = claim(ledger, run_id, handed[0])
        order.append(step.step.rpartition(".")[2])
        handed = ledger.finish(step, Move(word="success"))
    assert order == ["a", "b", "deep", "child"]


def test_fail_fast_starts_nothing_more_but_waits_for_what_runs(ledger: Ledger) -> None:
    nodes = [StagedNode(f"model.p.n{place}", 0, 1, ()) for place in range(4)]
    run_id, _ = planned(ledger, nodes, parallel=2, roots=4)
    first, second = claim(ledger, run_id, "model.p.n0"), claim(ledger, run_id, "model.p.n1")
    assert ledger.finish(first, Move(word="error", blocks=True, stop="fail_fast")) == ()
    assert ledger.beat(run_id, [(second.step, second.fence)]) == ["stop"]
    assert ledger.give_back(second, "release") == ("@close",)
    assert ledger.fact(run_id, "stop") == "fail_fast"
    closing = claim(ledger, run_id, "@close")
    assert ledger.beat(run_id, [(closing.step, closing.fence)]) == ["ok"]


FAILED = Move(word="error", blocks=True, stop="fail_fast")
"""A node fails, and --fail-fast was given."""


@pytest.mark.parametrize("lock", ["", "duckdb:/x"])
def test_fail_fast_goes_on_until_another_node_becomes_ready(ledger: Ledger, lock: str) -> None:
    """Plain dbt looks for the failure when it takes the next node from its queue, and had taken all ready ones."""
    nodes = [
        StagedNode("model.p.a", 0, 1, ()), StagedNode("model.p.b", 0, 1, ()),
        StagedNode("model.p.c", 0, 1, ("model.p.d",)), StagedNode("model.p.d", 1, 1, ()),
    ]  # fmt: skip
    run_id, _ = planned(ledger, nodes, parallel=1, roots=3, lock=lock)
    entered = WarehouseLock(ledger).enter(run_id, lock, OWNER) if lock else None
    session = entered.fence if isinstance(entered, Session) else None

    def take(step: str) -> Claim:
        return claim(ledger, run_id, "" if lock else step, session=session)

    if lock:
        ledger.finish(take("@start"), Move(word="success"))
    ledger.finish(take("model.p.a"), FAILED)
    assert ledger.fact(run_id, "state") == "active"
    going_on = take("model.p.b")
    assert (going_on.step, going_on.grace) == ("model.p.b", 0)
    ledger.finish(going_on, Move(word="success"))
    ledger.finish(take("model.p.c"), Move(word="success"))
    assert (ledger.fact(run_id, "state"), ledger.fact(run_id, "stop")) == ("stopping", "fail_fast")
    assert take("@close").step == "@close"


@pytest.mark.parametrize(
    ("threads", "beside"), [(1, []), (2, ["model.p.b"]), (4, ["model.p.b", "model.p.c"])]
)
def test_fail_fast_session_executes_the_nodes_that_dbt_would_be_executing(
    ledger: Ledger, threads: int, beside: list[str]
) -> None:
    nodes = [StagedNode(f"model.p.{name}", 0, 1, ()) for name in "abc"]
    run_id, _ = planned(ledger, nodes, parallel=threads, roots=3, lock="duckdb:/x")
    session = WarehouseLock(ledger).enter(run_id, "duckdb:/x", OWNER)
    assert isinstance(session, Session)
    ledger.finish(claim(ledger, run_id, "", session=session.fence), Move(word="success"))
    ledger.finish(claim(ledger, run_id, "", session=session.fence), FAILED)
    assert ledger.fact(run_id, "state") == "stopping"
    for name in beside:
        other = claim(ledger, run_id, "", session=session.fence)
        assert other.step == name
        assert other.grace >= 0.1
        key = ledger.keys.steps(run_id)
        stored: Any = ledger.client.hget(key, name)
        for grace, answer in ((3_600_000, "ok"), (-1, "stop")):  # of its time, some is left; it is up
            ledger.client.hset(key, name, json.dumps({**json.loads(stored), "grace": grace}))
            assert ledger.beat(run_id, [(name, other.fence)]) == [answer]
        ledger.finish(other, Move(word="success"), result=b"{}")
    assert claim(ledger, run_id, "", session=session.fence).step == "@close"
    assert list(ledger.results(run_id)) == beside


def test_fail_fast_executes_nodes_that_were_handed_out_and_not_begun(ledger: Ledger) -> None:
    """Fewer processes than threads."""
    nodes = [StagedNode(f"model.p.{name}", 0, 1, ()) for name in "abc"]
    run_id, handed = planned(ledger, nodes, parallel=2, roots=3)
    assert handed == ("model.p.a", "model.p.b")
    ledger.finish(claim(ledger, run_id, "model.p.a"), FAILED)
    other = claim(ledger, run_id, "model.p.b")
    assert other.grace >= 0.1
    assert isinstance(ledger.claim(run_id, "model.p.c", OWNER), Refusal)
    assert ledger.finish(other, Move(word="success")) == ("@close",)


def test_cancel_ends_a_run_that_no_worker_claimed(ledger: Ledger) -> None:
    run_id = submit(ledger)
    assert ledger.cancel(run_id, "mind changed") == ("active", ())
    assert claim(ledger, run_id, "@plan").stopping
    assert ledger.cancel(run_id)[0] == "stopping"
    assert ledger.cancel(new_run_id())[0] == "unknown"


def test_cancel_between_plan_and_start(ledger: Ledger) -> None:
    run_id = submit(ledger)
    plan = claim(ledger, run_id, "@plan")
    ledger.cancel(run_id)
    ledger.stage(plan, chain("a"), roots=("model.p.a",))
    assert ledger.finish(plan, Move(word="planned", nodes=1)) == ("@close",)


def test_cancel_while_the_start_runs_waits_for_it(ledger: Ledger) -> None:
    run_id = submit(ledger)
    plan = claim(ledger, run_id, "@plan")
    ledger.stage(plan, chain("a"), roots=("model.p.a",))
    ledger.finish(plan, Move(word="planned", nodes=1))
    start = claim(ledger, run_id, "@start")
    assert ledger.cancel(run_id) == ("active", ())
    assert ledger.give_back(start, "release") == ("@close",)


def test_moves_with_a_lost_fence_are_refused(ledger: Ledger, expire: Callable[[str, str], None]) -> None:
    run_id, _ = planned(ledger, chain("a", "b"))
    slow = claim(ledger, run_id, "model.p.a")
    expire(run_id, slow.step)
    answer = ledger.reap(run_id, slow.step)
    assert (answer["what"], answer["losses"], answer["publish"]) == ("lost", 1, ("model.p.a",))
    assert ledger.beat(run_id, [(slow.step, slow.fence)]) == ["lost"]
    with pytest.raises(FenceLostError):
        ledger.finish(slow, Move(word="success"))
    with pytest.raises(FenceLostError):
        ledger.give_back(slow, "retry")
    again = claim(ledger, run_id, "model.p.a")
    assert (again.tries, again.losses, again.index) == (2, 1, slow.index)
    assert ledger.finish(again, Move(word="success")) == ("model.p.b",)


@pytest.fixture
def expire(ledger: Ledger) -> Callable[[str, str], None]:
    """Lets a watch run out at once."""

    def now(run_id: str, step: str) -> None:
        for key in (ledger.keys.leases(), ledger.keys.watches()):
            ledger.client.zadd(key, {f"{run_id} {step}": 1}, xx=True)
        assert (run_id, step) in ledger.overdue(queue_empty=True)

    return now


def test_a_live_lease_is_not_reaped(ledger: Ledger) -> None:
    run_id, _ = planned(ledger, chain("a"))
    claim(ledger, run_id, "model.p.a")
    assert ledger.overdue(queue_empty=True) == []
    assert ledger.reap(run_id, "model.p.a")["what"] == "nothing"


def test_a_lost_message_is_sent_again_unless_the_queue_is_deep(
    ledger: Ledger, expire: Callable[[str, str], None]
) -> None:
    run_id, _ = planned(ledger, chain("a"))
    watched = f"{run_id} model.p.a"
    soon = int(ledger.server_time() * 1000)
    ledger.client.zadd(ledger.keys.watches(), {watched: soon - PATIENCE_MS + 60_000})
    assert ledger.overdue(queue_empty=False) == []
    ledger.client.zadd(ledger.keys.watches(), {watched: soon - PATIENCE_MS - 1})
    assert ledger.overdue(queue_empty=False) == [(run_id, "model.p.a")]
    expire(run_id, "model.p.a")
    assert ledger.reap(run_id, "model.p.a")["what"] == "publish"


def test_a_retry_frees_its_thread_and_is_claimed_again(ledger: Ledger) -> None:
    nodes = [StagedNode("model.p.a", 0, 1, ()), StagedNode("model.p.b", 0, 1, ())]
    run_id, handed = planned(ledger, nodes, parallel=1, roots=2)
    assert handed == ("model.p.a",)
    first = claim(ledger, run_id, "model.p.a")
    assert ledger.give_back(first, "retry", wait=30) == ("model.p.b",)
    assert ledger.claim(run_id, "model.p.a", OWNER) == Refusal("no free thread")
    assert ledger.finish(claim(ledger, run_id, "model.p.b"), Move(word="success")) == ("model.p.a",)
    assert claim(ledger, run_id, "model.p.a").tries == 2


def test_cache_changes_are_stored_with_results(ledger: Ledger) -> None:
    run_id, _ = planned(ledger, chain("a"))
    ledger.finish(claim(ledger, run_id, "model.p.a"), Move(word="success", cache=('["x","add"]',)))
    assert ledger.cache_changes(run_id, 0) == [b'["x","add"]']
    assert ledger.cache_changes(run_id, 1) == []


def test_one_session_at_a_time_on_a_warehouse(ledger: Ledger) -> None:
    locks = WarehouseLock(ledger)
    one, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    two, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    first = locks.enter(one, "duckdb:/x", OWNER)
    assert isinstance(first, Session)
    assert locks.enter(two, "duckdb:/x", "other:2") == "parked"
    assert locks.enter(one, "duckdb:/x", "other:2") == "session is running"
    for expected in ("@start", "model.p.a", "@close"):
        step = claim(ledger, one, "", session=first.fence)
        assert step.step == expected
        final = {"final": '{"return_code":0}', "final_state": "succeeded"} if expected == "@close" else {}
        ledger.finish(step, Move(word="success", **final))
    assert ledger.claim(one, "", OWNER, session=first.fence) == Refusal("run has ended")
    assert locks.leave(first) == (f"{two} {SESSION}",)
    assert isinstance(locks.enter(two, "duckdb:/x", "other:2"), Session)


def on_files(ledger: Ledger, *warehouses: str) -> list[str]:
    """Planned runs, each on its files."""
    return [planned(ledger, chain("a"), lock=warehouse)[0] for warehouse in warehouses]


def end(ledger: Ledger, session: Session) -> tuple[str, ...]:
    """Execute a run's session to the run's end; what has to be published then."""
    ledger.finish(claim(ledger, session.run_id, "", session=session.fence), LAST)
    return WarehouseLock(ledger).leave(session)


@pytest.mark.parametrize(
    ("first", "second", "meet"),
    [
        ("duckdb:/a", "duckdb:/b", False),
        ("duckdb:/a\nduckdb:/b", "duckdb:/b", True),
        ("duckdb:/b\nduckdb:/c", "duckdb:/a\nduckdb:/b", True),
        ("duckdb:/a\nread duckdb:/c", "duckdb:/b\nread duckdb:/c", False),
        ("duckdb:/a\nread duckdb:/c", "duckdb:/c", True),
        ("duckdb:/c", "duckdb:/a\nread duckdb:/c", True),
    ],
)
def test_runs_that_open_one_file_go_one_after_the_other(
    ledger: Ledger, first: str, second: str, meet: bool
) -> None:
    """Unless both only read it."""
    locks = WarehouseLock(ledger)
    one, two = on_files(ledger, first, second)
    session = locks.enter(one, first, OWNER)
    assert isinstance(session, Session)
    entered = locks.enter(two, second, "other:2")
    assert (entered == "parked") == meet
    assert end(ledger, session) == ((f"{two} {SESSION}",) if meet else ())
    assert not meet or isinstance(locks.enter(two, second, "other:2"), Session)


def test_a_run_acquires_all_of_its_files_at_once_in_the_order_of_the_line(ledger: Ledger) -> None:
    """Else two runs would each have a file that the other waits for, and small runs starve one of many files."""
    both, locks = "duckdb:/a\nduckdb:/b", WarehouseLock(ledger)
    one, two, three = on_files(ledger, "duckdb:/b", both, "duckdb:/a")
    session = locks.enter(one, "duckdb:/b", OWNER)
    assert isinstance(session, Session)
    assert locks.enter(two, both, "other:2") == "parked"
    assert not ledger.client.exists(ledger.keys.lock("duckdb:/a"))
    assert locks.enter(three, "duckdb:/a", "other:3") == "parked"  # its file is free, and it is not its turn
    assert end(ledger, session) == (f"{two} {SESSION}",)
    session = locks.enter(two, both, "other:2")
    assert isinstance(session, Session)
    assert session.files == ("duckdb:/a", "duckdb:/b")
    assert end(ledger, session) == (f"{three} {SESSION}",)
    assert isinstance(locks.enter(three, "duckdb:/a", "other:3"), Session)


def test_cancel_of_a_run_in_line_wakes_the_run_behind_it(ledger: Ledger) -> None:
    both, locks = "duckdb:/a\nduckdb:/b", WarehouseLock(ledger)
    one, two, three = on_files(ledger, "duckdb:/b", both, "duckdb:/a")
    assert isinstance(locks.enter(one, "duckdb:/b", OWNER), Session)
    assert locks.enter(two, both, "other:2") == "parked"
    assert locks.enter(three, "duckdb:/a", "other:3") == "parked"
    assert ledger.cancel(two)[1] == (f"{three} {SESSION}", "@close")
    assert isinstance(locks.enter(three, "duckdb:/a", "other:3"), Session)


def test_each_reader_that_enters_wakes_the_next_reader_in_line(ledger: Ledger) -> None:
    locks = WarehouseLock(ledger)
    reads = [f"duckdb:/{name}\nread duckdb:/x" for name in "ab"]
    writer, one, two = on_files(ledger, "duckdb:/x", *reads)
    session = locks.enter(writer, "duckdb:/x", OWNER)
    assert isinstance(session, Session)
    assert [locks.enter(one, reads[0], "r:1"), locks.enter(two, reads[1], "r:2")] == ["parked"] * 2
    assert end(ledger, session) == (f"{one} {SESSION}",)
    entered = locks.enter(one, reads[0], "r:1")
    assert isinstance(entered, Session)
    assert entered.publish == (f"{two} {SESSION}",)
    assert isinstance(locks.enter(two, reads[1], "r:2"), Session)


def test_claims_outside_of_a_session_are_refused_on_a_single_process_warehouse(ledger: Ledger) -> None:
    run_id, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    session = WarehouseLock(ledger).enter(run_id, "duckdb:/x", OWNER)
    assert isinstance(session, Session)
    start = claim(ledger, run_id, "", session=session.fence)
    ledger.give_back(start, "retry", wait=1)
    refused = ledger.claim(run_id, "@start", "other:2")
    assert isinstance(refused, Refusal)
    assert refused.reason == "left to the session"
    assert claim(ledger, run_id, "", session=session.fence).step == "@start"


def test_an_expired_session_is_replaced(ledger: Ledger, expire: Callable[[str, str], None]) -> None:
    locks = WarehouseLock(ledger)
    run_id, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    dead = locks.enter(run_id, "duckdb:/x", OWNER)
    assert isinstance(dead, Session)
    start = claim(ledger, run_id, "", session=dead.fence)
    ledger.client.hset(ledger.keys.lock("duckdb:/x"), "expires", 1)
    expire(run_id, SESSION)
    expire(run_id, start.step)
    answer = ledger.reap(run_id, SESSION)
    assert (answer["what"], answer["publish"]) == ("lost", (SESSION,))
    assert ledger.reap(run_id, start.step)["what"] == "nothing"
    with pytest.raises(FenceLostError):
        ledger.finish(start, Move(word="success"))
    assert ledger.claim(run_id, "", OWNER, session=dead.fence) == Refusal("session lost")
    alive = locks.enter(run_id, "duckdb:/x", "other:2")
    assert isinstance(alive, Session)
    assert claim(ledger, run_id, "", session=alive.fence).step == "@start"


def test_events_have_consecutive_numbers_without_duplicates(ledger: Ledger) -> None:
    run_id = submit(ledger)
    assert ledger.append_events(run_id, "p", 1, [b'{"n":1}', b'{"n":2}']) == 2
    assert ledger.append_events(run_id, "p", 1, [b'{"n":1}', b'{"n":2}', b'{"n":3}']) == 1
    entries = ledger.client.xrange(ledger.keys.events(run_id))
    assert [int(fields[b"s"]) for _, fields in entries] == [1, 2, 3, 4]
    assert [fields[b"e"] for _, fields in entries][1:] == [b'{"n":1}', b'{"n":2}', b'{"n":3}']
    assert ledger.append_events(new_run_id(), "p", 1, [b"{}"]) == 0


def test_log_file_records_are_stored_once_bounded_and_expire(ledger: Ledger) -> None:
    run_id = submit(ledger)
    key = ledger.keys.log(run_id)
    assert ledger.append_events(run_id, "p", 1, [b'{"n":1}', b'["one"]']) == 2
    assert ledger.append_events(run_id, "p", 1, [b'{"n":1}', b'["one"]']) == 0
    assert [fields for _, fields in ledger.client.xrange(key)] == [{b"r": b'["one"]'}]
    assert ledger.client.xlen(ledger.keys.events(run_id)) == 2  # the first is that the run was submitted
    assert 0 < ledger.client.ttl(key) <= 3600
    ledger.append_events(run_id, "q", 1, [b'["more"]'] * 2001)
    assert ledger.client.xlen(key) == 2000
    assert ledger.fact(run_id, "log_dropped") == "2"


def test_every_key_of_an_ended_run_expires(ledger: Ledger) -> None:
    run_id, _ = planned(ledger, chain("a"))
    ledger.append_events(run_id, "p", 1, [b"{}"])
    ledger.finish(claim(ledger, run_id, "model.p.a"), Move(word="success", cache=("[]",)), result=b"{}")
    last = Move(word="done", final='{"return_code":0}', final_state="succeeded")
    ledger.finish(claim(ledger, run_id, "@close"), last)
    for key in ledger.client.keys(f"test:run:{run_id}*"):
        assert 0 < ledger.client.ttl(key) <= 100, key
    assert ledger.client.zcard(ledger.keys.leases()) == 0


# -- regressions, most of them found with tests/integration/test_ledger_model.py


LAST = Move(word="done", final='{"return_code":0}', final_state="succeeded")


def test_cancel_while_a_plan_is_being_stored(ledger: Ledger) -> None:
    """Nodes that were staged but not planned were counted as gone before they were counted at all."""
    run_id = submit(ledger)
    plan = claim(ledger, run_id, "@plan")
    ledger.stage(plan, chain("a", "b"), roots=("model.p.a",))
    ledger.cancel(run_id)
    assert ledger.finish(plan, Move(word="planned", nodes=2)) == ("@close",)
    assert ledger.fact(run_id, "pending") == "0"


def test_a_second_plan_replaces_the_nodes_that_the_first_staged(
    ledger: Ledger, expire: Callable[[str, str], None]
) -> None:
    run_id = submit(ledger)
    ledger.stage(claim(ledger, run_id, "@plan"), chain("a", "gone"), roots=("model.p.a",))
    expire(run_id, "@plan")
    assert ledger.reap(run_id, "@plan")["publish"] == ("@plan",)
    plan = claim(ledger, run_id, "@plan")
    ledger.stage(plan, chain("a"), roots=("model.p.a",))
    ledger.finish(plan, Move(word="planned", nodes=1))
    ledger.finish(claim(ledger, run_id, "@start"), Move(word="success"))
    assert ledger.finish(claim(ledger, run_id, "model.p.a"), Move(word="success")) == ("@close",)
    assert ledger.claim(run_id, "model.p.gone", OWNER) == Refusal("unknown step")


def test_nothing_is_recorded_after_the_end(ledger: Ledger) -> None:
    """What was written then had no expiry and stayed for ever."""
    nodes = [StagedNode(f"model.p.n{place}", 0, 1, ()) for place in range(2)]
    run_id, _ = planned(ledger, nodes, roots=2)
    ending, late = claim(ledger, run_id, "model.p.n0"), claim(ledger, run_id, "model.p.n1")
    ledger.finish(ending, LAST)
    assert ledger.beat(run_id, [(late.step, late.fence)]) == ["stop"]
    with pytest.raises(FenceLostError):
        ledger.finish(late, Move(word="success", cache=("[]",)), result=b"{}")
    with pytest.raises(FenceLostError):
        ledger.give_back(late, "retry")
    assert ledger.append_events(run_id, "p", 1, [b"{}"]) == 1
    for key in ledger.client.keys(f"test:run:{run_id}*"):
        assert 0 < ledger.client.ttl(key) <= 100, key


def test_a_repeated_session_claim_returns_the_same_step(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py repeats a call whose answer was lost; the step of the first answer was then lost."""
    run_id, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    locks = WarehouseLock(ledger)
    monkeypatch.setattr("secrets.token_hex", lambda _: "one word")
    session = locks.enter(run_id, "duckdb:/x", OWNER)
    assert isinstance(session, Session)
    assert locks.enter(run_id, "duckdb:/x", OWNER) == session
    first = claim(ledger, run_id, "", session=session.fence)
    again = claim(ledger, run_id, "", session=session.fence)
    assert msgspec.structs.replace(again, sure_until=first.sure_until) == first


def test_a_repeated_give_back_changes_nothing(ledger: Ledger) -> None:
    run_id, _ = planned(ledger, chain("a"))
    first = claim(ledger, run_id, "model.p.a")
    assert ledger.give_back(first, "retry") == ()
    assert ledger.give_back(first, "retry") == ()
    assert ledger.attempts(run_id) == []


def test_a_run_keeps_its_warehouse_while_it_waits_for_a_retry(ledger: Ledger) -> None:
    """Another run went in between, and left tables that no order of the two leaves."""
    locks = WarehouseLock(ledger)
    one, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    two, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    session = locks.enter(one, "duckdb:/x", OWNER)
    assert isinstance(session, Session)
    ledger.give_back(claim(ledger, one, "", session=session.fence), "retry", wait=30)
    assert locks.leave(session) == ()
    assert locks.enter(two, "duckdb:/x", "other:2") == "parked"
    assert ledger.claim(one, "@start", OWNER) == Refusal("left to the session", (SESSION,))
    assert isinstance(locks.enter(one, "duckdb:/x", OWNER), Session)


def test_a_session_that_leaves_early_is_followed_by_another(ledger: Ledger) -> None:
    locks = WarehouseLock(ledger)
    one, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    two, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    session = locks.enter(one, "duckdb:/x", OWNER)
    assert isinstance(session, Session)
    assert locks.leave(session) == (SESSION,)
    assert locks.enter(two, "duckdb:/x", "other:2") == "parked"
    assert isinstance(locks.enter(one, "duckdb:/x", OWNER), Session)


def test_a_cancelled_run_need_not_wait_for_a_warehouse_that_it_never_had(ledger: Ledger) -> None:
    locks = WarehouseLock(ledger)
    one, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    two, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    three, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    session = locks.enter(one, "duckdb:/x", OWNER)
    assert isinstance(session, Session)
    assert locks.enter(two, "duckdb:/x", "other:2") == "parked"
    assert locks.enter(three, "duckdb:/x", "other:2") == "parked"
    assert ledger.cancel(two) == ("active", ("@close",))
    ledger.finish(claim(ledger, two, "@close"), LAST)
    ledger.finish(claim(ledger, one, "", session=session.fence), LAST)
    assert locks.leave(session) == (f"{three} {SESSION}",)  # a run that had ended was woken, and no other


def test_an_overtaken_session_cannot_renew_the_lock_of_the_next(ledger: Ledger) -> None:
    locks = WarehouseLock(ledger)
    one, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    two, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    slow = locks.enter(one, "duckdb:/x", OWNER)
    assert isinstance(slow, Session)
    ledger.finish(claim(ledger, one, "", session=slow.fence), LAST)
    ledger.client.hset(ledger.keys.lock("duckdb:/x"), "expires", 1)
    session = locks.enter(two, "duckdb:/x", "other:2")
    assert isinstance(session, Session)
    assert ledger.beat(one, [slow.held]) == ["lost"]
    assert locks.leave(slow) == ()
    assert ledger.beat(two, [session.held]) == ["ok"]


def test_a_session_that_died_after_the_end_of_its_run_wakes_the_next_run(
    ledger: Ledger, expire: Callable[[str, str], None]
) -> None:
    locks = WarehouseLock(ledger)
    one, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    two, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    dead = locks.enter(one, "duckdb:/x", OWNER)
    assert isinstance(dead, Session)
    assert locks.enter(two, "duckdb:/x", "other:2") == "parked"
    expire(two, SESSION)
    assert ledger.reap(two, SESSION)["what"] == "nothing"  # its turn has not come: no message for nothing
    ledger.finish(claim(ledger, one, "", session=dead.fence), LAST)
    expire(one, SESSION)
    assert ledger.reap(one, SESSION)["publish"] == (f"{two} {SESSION}",)


def test_a_lost_session_loses_the_step_that_it_executes(
    ledger: Ledger, expire: Callable[[str, str], None]
) -> None:
    """The next session took another node, and two processes executed nodes on one file."""
    nodes = [StagedNode(f"model.p.n{place}", 0, 1, ()) for place in range(2)]
    run_id, _ = planned(ledger, nodes, roots=2, lock="duckdb:/x")
    locks = WarehouseLock(ledger)
    slow = locks.enter(run_id, "duckdb:/x", OWNER)
    assert isinstance(slow, Session)
    ledger.finish(claim(ledger, run_id, "", session=slow.fence), Move(word="success"))
    step = claim(ledger, run_id, "", session=slow.fence)
    expire(run_id, SESSION)
    assert ledger.reap(run_id, SESSION)["publish"] == (SESSION,)
    assert ledger.beat(run_id, [(step.step, step.fence)]) == ["lost"]
    with pytest.raises(FenceLostError):
        ledger.finish(step, Move(word="success"))


def test_a_lost_session_releases_nothing_when_it_leaves(
    ledger: Ledger, expire: Callable[[str, str], None]
) -> None:
    run_id, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    locks = WarehouseLock(ledger)
    slow = locks.enter(run_id, "duckdb:/x", OWNER)
    assert isinstance(slow, Session)
    expire(run_id, SESSION)
    assert ledger.reap(run_id, SESSION)["publish"] == (SESSION,)
    session = locks.enter(run_id, "duckdb:/x", "other:2")
    assert isinstance(session, Session)
    ledger.finish(claim(ledger, run_id, "", session=session.fence), LAST)
    assert locks.leave(slow) == ()
    assert ledger.beat(run_id, [session.held]) == ["ok"]


def test_the_cause_of_a_skip_is_the_failure_that_finished_last(ledger: Ledger) -> None:
    nodes = [
        StagedNode("model.p.a", 0, 1, ("model.p.low",)),
        StagedNode("model.p.b", 0, 1, ("model.p.mid",)),
        StagedNode("model.p.mid", 1, 1, ("model.p.low",)),
        StagedNode("model.p.low", 2, 2, ()),
    ]
    run_id, _ = planned(ledger, nodes, roots=2)
    one, two = claim(ledger, run_id, "model.p.a"), claim(ledger, run_id, "model.p.b")
    ledger.finish(two, Move(word="error", blocks=True))
    ledger.finish(one, Move(word="error", blocks=True))
    mid = claim(ledger, run_id, "model.p.mid")
    assert (mid.skip, mid.cause) == (True, "model.p.b")
    ledger.finish(mid, Move(word="skipped"))
    assert claim(ledger, run_id, "model.p.low").cause == "model.p.a"


def test_a_giant_run_has_few_messages_in_the_queue(ledger: Ledger) -> None:
    nodes = [StagedNode(f"model.p.n{place:02}", 0, 1, ()) for place in range(40)]
    run_id, handed = planned(ledger, nodes, parallel=1000, roots=40)
    assert len(handed) == 16
    seen = set(handed)
    first = claim(ledger, run_id, handed[0])
    assert len(first.publish) == 1  # its place in the queue is the next one's
    seen |= {*first.publish}
    assert len(seen) == 17
    assert ledger.finish(first, Move(word="success")) == ()


def test_the_worker_that_ends_a_run_sets_its_expiry(ledger: Ledger) -> None:
    run_id = submit(ledger)
    ledger.finish(claim(ledger, run_id, "@plan"), LAST)
    assert 0 < ledger.client.ttl(ledger.keys.run(run_id)) <= 100
    assert 0 < ledger.client.ttl(ledger.keys.finished()) <= 100
    ledger.client.zadd(ledger.keys.finished(), {"an old run": 1})
    other = submit(ledger)
    ledger.finish(claim(ledger, other, "@plan"), LAST)
    assert ledger.client.zrange(ledger.keys.finished(), 0, -1) == [run_id.encode(), other.encode()]


def test_reasons_of_refusals_are_bounded(ledger: Ledger) -> None:
    for number in range(MAX_REASONS + 20):
        ledger.count_rejected(f"garbage {number}")
    ledger.count_rejected("garbage 0")
    counts = ledger.client.hgetall(ledger.keys.rejected())
    assert len(counts) == MAX_REASONS + 1
    assert (counts[b"garbage 0"], counts[OTHER_REASONS.encode()]) == (b"2", b"20")


def test_messages_of_every_priority_are_in_the_queue(ledger: Ledger) -> None:
    for level in ("", "\x06\x163", "\x06\x169"):
        ledger.client.lpush("q" + level, "message")
    assert ledger.queue_length("q") == 3


def test_a_run_remembers_its_priority(ledger: Ledger) -> None:
    request = RunRequest(run_id=new_run_id(), args=("run",), cwd="/p", project_dir="/p", priority=6)
    ledger.submit(request)
    for store in (ledger, Ledger(ledger.client, keys=ledger.keys)):
        assert store.priority(request.run_id) == 6
    assert ledger.priority(new_run_id()) == 0


def test_remembered_priorities_are_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_store, "MAX_PRIORITIES", 2)
    submitted = [submit(ledger, priority=level) for level in (1, 4, 9)]
    assert [ledger.priority(run_id) for run_id in submitted] == [1, 4, 9]


def test_a_run_is_read_in_one_round_trip(ledger: Ledger) -> None:
    run_id = submit(ledger, "run", "--full-refresh")
    request, facts, last = ledger.read(run_id)
    assert (request, facts, last) == (ledger.request(run_id), ledger.facts(run_id), None)
    plan = claim(ledger, run_id, "@plan")
    ledger.finish(plan, Move(word="error", final='{"return_code": 2}', final_state="failed"))
    request, facts, last = ledger.read(run_id)
    assert request is not None
    assert last is not None
    assert (facts["state"], last.return_code) == ("failed", 2)
    assert ledger.read(new_run_id()) == (None, {}, None)


def test_outcomes_are_read_in_one_round_trip(ledger: Ledger) -> None:
    run_id, due = planned(ledger, chain("a"))
    attempt = Attempt(step=due[0], number=1, worker=OWNER, started_at=1.0, finished_at=2.0, status="success")
    ledger.finish(claim(ledger, run_id, due[0]), Move(word="success"), result=b"{}", attempt=attempt)
    results, attempts, stop = ledger.outcomes(run_id)
    assert (results, attempts, stop) == (ledger.results(run_id), ledger.attempts(run_id), None)
    assert due[0] in results
    assert attempt in attempts
    ledger.cancel(run_id, "enough")
    assert ledger.outcomes(run_id)[2] == "enough"


def test_a_sample_of_active_runs(ledger: Ledger) -> None:
    assert ledger.some_active_runs() == []
    runs = {submit(ledger) for _ in range(3)}
    assert set(ledger.some_active_runs()) == runs
    assert len(ledger.some_active_runs(2)) == 2


def test_a_run_whose_deadline_has_passed_is_cancelled(
    ledger: Ledger, expire: Callable[[str, str], None]
) -> None:
    before = ledger.server_time()
    run_id = submit(ledger, limits=Limits(deadline=90))
    due = ledger.client.zscore(ledger.keys.leases(), f"{run_id} @deadline")
    assert before + 90 <= due / 1000 + 0.001 <= ledger.server_time() + 90.001
    assert ledger.reap(run_id, "@deadline")["what"] == "nothing"  # not yet
    plan = claim(ledger, run_id, "@plan")
    expire(run_id, "@deadline")
    assert ledger.reap(run_id, "@deadline") == {"what": "deadline", "publish": ()}
    assert ledger.beat(run_id, [("@plan", plan.fence)]) == ["stop"]
    assert ledger.facts(run_id)["state"] == "stopping"
    assert ledger.facts(run_id)["late"] == "1"
    assert ledger.fact(run_id, "stop") == "its deadline of 90 s has passed"
    assert ledger.reap(run_id, "@deadline")["what"] == "nothing"  # once


def test_a_run_that_ends_or_is_stopped_in_time_has_no_deadline_any_more(ledger: Ledger) -> None:
    def begun() -> Claim:
        return claim(ledger, submit(ledger, "ls", limits=Limits(deadline=0.5)), "@command")

    ended, stopped = begun(), begun()
    ledger.finish(ended, Move(word="done", final='{"return_code":0}', final_state="succeeded"))
    ledger.cancel(stopped.run_id)
    assert ledger.client.zrange(ledger.keys.leases(), 0, -1) == [f"{stopped.run_id} @command".encode()]
    assert ledger.fact(stopped.run_id, "late") is None


def test_a_deadline_that_passed_without_workers_ends_the_run(
    ledger: Ledger, expire: Callable[[str, str], None]
) -> None:
    run_id, handed = planned(ledger, chain("a", "b"), limits=Limits(deadline=60))
    assert handed == ("model.p.a",)
    expire(run_id, "@deadline")
    assert ledger.reap(run_id, "@deadline") == {"what": "deadline", "publish": ("@close",)}
    assert isinstance(ledger.claim(run_id, "model.p.a", OWNER), Refusal)
    assert claim(ledger, run_id, "@close").stopping
