"""The ledger's moves, each on fakeredis and on the real server; what counts is the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import fakeredis
import pytest
import redis

from tests.support.redis_server import RedisServer
from workers.contract.connection import connect
from workers.contract.messages import RunRequest
from workers.contract.names import Keys, new_run_id
from workers.ledger import SESSION, Claim, FenceLostError, Ledger, Move, Refusal, StagedNode
from workers.warehouse_lock import Session, WarehouseLock

OWNER = "host:1"


@pytest.fixture(params=["fakeredis", "server"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """A ledger with a short lease on an empty server."""
    client: redis.Redis
    if request.param == "fakeredis":
        client = fakeredis.FakeRedis()
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        client = connect(server.url)
    yield Ledger(client, keys=Keys("test"), lease_ms=60_000, result_ttl=100)
    client.close()


def submit(ledger: Ledger, *args: str) -> str:
    run_id = new_run_id()
    ledger.submit(RunRequest(run_id=run_id, args=args or ("build",), cwd="/p", project_dir="/p"))
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
    ledger: Ledger, nodes: list[StagedNode], *, parallel: int = 4, lock: str = "", roots: int = 1
) -> tuple[str, tuple[str, ...]]:
    """A run whose plan and start are done; the steps that were handed out then."""
    run_id = submit(ledger)
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


def test_submitting_twice_is_one_run(ledger: Ledger) -> None:
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


def test_cancel_ends_a_run_that_nobody_took(ledger: Ledger) -> None:
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


def test_a_lost_fence_can_do_nothing(ledger: Ledger, expire: Callable[[str, str], None]) -> None:
    run_id, _ = planned(ledger, chain("a", "b"))
    slow = claim(ledger, run_id, "model.p.a")
    expire(run_id, slow.step)
    answer = ledger.reap(run_id, slow.step, queue_empty=True)
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
        assert ledger.client.zscore(ledger.keys.leases(), f"{run_id} {step}") is not None
        ledger.client.zadd(ledger.keys.leases(), {f"{run_id} {step}": 1})
        assert (run_id, step) in ledger.overdue()

    return now


def test_a_live_lease_is_left_alone(ledger: Ledger) -> None:
    run_id, _ = planned(ledger, chain("a"))
    claim(ledger, run_id, "model.p.a")
    assert ledger.overdue() == []
    assert ledger.reap(run_id, "model.p.a", queue_empty=True)["what"] == "nothing"


def test_a_lost_message_is_sent_again_but_a_deep_queue_is_left_alone(
    ledger: Ledger, expire: Callable[[str, str], None]
) -> None:
    run_id, _ = planned(ledger, chain("a"))
    expire(run_id, "model.p.a")
    assert ledger.reap(run_id, "model.p.a", queue_empty=False)["what"] == "nothing"
    expire(run_id, "model.p.a")
    assert ledger.reap(run_id, "model.p.a", queue_empty=True)["what"] == "publish"


def test_a_retry_frees_its_place_and_comes_back(ledger: Ledger) -> None:
    nodes = [StagedNode("model.p.a", 0, 1, ()), StagedNode("model.p.b", 0, 1, ())]
    run_id, handed = planned(ledger, nodes, parallel=1, roots=2)
    assert handed == ("model.p.a",)
    first = claim(ledger, run_id, "model.p.a")
    assert ledger.give_back(first, "retry", wait=30) == ("model.p.b",)
    assert claim(ledger, run_id, "model.p.a").tries == 2


def test_the_relation_cache_travels_with_results(ledger: Ledger) -> None:
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
    assert locks.leave(first) == two
    assert isinstance(locks.enter(two, "duckdb:/x", "other:2"), Session)


def test_outside_of_a_session_nobody_executes_on_a_single_process_warehouse(ledger: Ledger) -> None:
    run_id, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    session = WarehouseLock(ledger).enter(run_id, "duckdb:/x", OWNER)
    assert isinstance(session, Session)
    start = claim(ledger, run_id, "", session=session.fence)
    ledger.give_back(start, "retry", wait=1)
    refused = ledger.claim(run_id, "@start", "other:2")
    assert isinstance(refused, Refusal)
    assert refused.reason == "left to the session"
    assert claim(ledger, run_id, "", session=session.fence).step == "@start"


def test_a_dead_session_makes_room(ledger: Ledger, expire: Callable[[str, str], None]) -> None:
    locks = WarehouseLock(ledger)
    run_id, _ = planned(ledger, chain("a"), lock="duckdb:/x")
    dead = locks.enter(run_id, "duckdb:/x", OWNER)
    assert isinstance(dead, Session)
    start = claim(ledger, run_id, "", session=dead.fence)
    ledger.client.hset(ledger.keys.lock("duckdb:/x"), "expires", 1)
    expire(run_id, SESSION)
    expire(run_id, start.step)
    assert ledger.reap(run_id, SESSION, queue_empty=True)["what"] == "lost"
    assert ledger.reap(run_id, start.step, queue_empty=True)["publish"] == (SESSION,)
    with pytest.raises(FenceLostError):
        ledger.finish(start, Move(word="success"))
    assert ledger.claim(run_id, "", OWNER, session=dead.fence) == Refusal("session lost")
    alive = locks.enter(run_id, "duckdb:/x", "other:2")
    assert isinstance(alive, Session)
    assert claim(ledger, run_id, "", session=alive.fence).step == "@start"


def test_events_are_counted_without_gap_or_double(ledger: Ledger) -> None:
    run_id = submit(ledger)
    assert ledger.append_events(run_id, "p", 1, [b'{"n":1}', b'{"n":2}']) == 2
    assert ledger.append_events(run_id, "p", 1, [b'{"n":1}', b'{"n":2}', b'{"n":3}']) == 1
    entries = ledger.client.xrange(ledger.keys.events(run_id))
    assert [int(fields[b"s"]) for _, fields in entries] == [1, 2, 3, 4]
    assert [fields[b"e"] for _, fields in entries][1:] == [b'{"n":1}', b'{"n":2}', b'{"n":3}']
    assert ledger.append_events(new_run_id(), "p", 1, [b"{}"]) == 0


def test_every_key_of_an_ended_run_expires(ledger: Ledger) -> None:
    run_id, _ = planned(ledger, chain("a"))
    ledger.append_events(run_id, "p", 1, [b"{}"])
    ledger.finish(claim(ledger, run_id, "model.p.a"), Move(word="success", cache=("[]",)), result=b"{}")
    last = Move(word="done", final='{"return_code":0}', final_state="succeeded")
    ledger.finish(claim(ledger, run_id, "@close"), last)
    for key in ledger.client.keys(f"test:run:{run_id}*"):
        assert 0 < ledger.client.ttl(key) <= 100, key
    assert ledger.client.zcard(ledger.keys.leases()) == 0
