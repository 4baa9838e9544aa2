"""Turns of runs in the ledger: which runs go on, which wait, and how turns survive lost messages and workers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.support.waiting import wait_until
from tests.unit.test_ledger import OWNER, chain, claim, planned, submit
from tests.unit.test_relation_locks import overdue
from workers.contract.keys import STEP_PLAN, STEP_START
from workers.ledger.ledger import OTHER_DBT, Ledger
from workers.ledger.records import Claim, Move, Refusal
from workers.supervision.worker_registry import WorkerEntry, turns_of

WAITS = "waiting for its turn"
LAST = Move(word="done", final='{"return_code":0}', final_state="succeeded")


def rules(ledger: Ledger, runs: int, seconds: float = 3600) -> None:
    ledger.client.hset(ledger.keys.turns_rules(), mapping={"runs": runs, "seconds": seconds})


def waits(ledger: Ledger, **fields: Any) -> str:
    """A new run that has to wait."""
    run_id = submit(ledger, **fields)
    assert ledger.claim(run_id, STEP_PLAN, OWNER) == Refusal(WAITS)
    came = int(ledger.server_time() * 1000)
    wait_until(
        lambda: int(ledger.server_time() * 1000) > came, 5, "the next millisecond"
    )  # the line counts those
    return run_id


def finish_only_node(ledger: Ledger, run_id: str) -> tuple[str, ...]:
    """The steps that are due after the end of a run of one node, ``a``."""
    ledger.finish(claim(ledger, run_id, "model.p.a"), Move(word="success"), result=b"{}")
    return ledger.finish(claim(ledger, run_id, "@close"), LAST)


def test_the_end_of_a_run_wakes_the_first_in_line(ledger: Ledger) -> None:
    rules(ledger, 1)
    run_id, _ = planned(ledger, chain("a"))
    first, second = waits(ledger), waits(ledger)
    assert ledger.runs_in_line() == [first, second]
    assert finish_only_node(ledger, run_id) == (f"{first} {STEP_PLAN}",)
    assert ledger.claim(second, STEP_PLAN, OWNER) == Refusal(WAITS)
    assert claim(ledger, first, STEP_PLAN).fence == 1


def test_a_run_that_waits_is_cancelled_at_once(ledger: Ledger) -> None:
    rules(ledger, 1)
    planned(ledger, chain("a"))
    run_id = waits(ledger)
    assert ledger.cancel(run_id) == ("active", (STEP_PLAN,))
    assert claim(ledger, run_id, STEP_PLAN).stopping
    assert not ledger.client.exists(ledger.keys.turns_line())


def test_a_long_run_loses_its_turn_and_gets_another(ledger: Ledger) -> None:
    rules(ledger, 1, seconds=0)
    long, _ = planned(ledger, chain("a", "b"))
    small = waits(ledger)
    due = ledger.finish(claim(ledger, long, "model.p.a"), Move(word="success"), result=b"{}")
    assert due == (f"{small} {STEP_PLAN}",)
    assert ledger.client.zrange(ledger.keys.turns_line(), 0, -1) == [long.encode()]
    plan = claim(ledger, small, STEP_PLAN)
    assert ledger.finish(plan, LAST) == (f"{long} {STEP_PLAN}",)
    assert ledger.claim(long, STEP_PLAN, OWNER) == Refusal("step is done", ("model.p.b",))


def test_a_more_urgent_run_does_not_wait_for_the_end_of_a_turn(ledger: Ledger) -> None:
    rules(ledger, 1)
    run_id = submit(ledger, priority=5)
    plan = claim(ledger, run_id, STEP_PLAN)
    later, urgent = waits(ledger, priority=5), waits(ledger, priority=0)
    ledger.stage(plan, chain("a"), roots=("model.p.a",))
    assert ledger.finish(plan, Move(word="planned", nodes=1)) == (f"{urgent} {STEP_PLAN}",)
    places = [raw.decode() for raw in ledger.client.zrange(ledger.keys.turns_line(), 0, -1)]
    assert places == [later, run_id]


def test_a_lost_message_of_a_new_turn_is_sent_again(ledger: Ledger) -> None:
    rules(ledger, 1, seconds=0)
    long, _ = planned(ledger, chain("a", "b"))
    small = waits(ledger)
    ledger.finish(claim(ledger, long, "model.p.a"), Move(word="success"), result=b"{}")
    overdue(ledger, small, STEP_PLAN)
    assert ledger.reap(small, STEP_PLAN)["what"] == "publish"
    assert ledger.finish(claim(ledger, small, STEP_PLAN), LAST) == (f"{long} {STEP_PLAN}",)
    overdue(ledger, long, STEP_PLAN)
    assert ledger.reap(long, STEP_PLAN)["publish"] == ("model.p.b",)


def test_the_reaper_frees_the_turn_of_a_removed_run(ledger: Ledger) -> None:
    rules(ledger, 1)
    gone, _ = planned(ledger, chain("a"))
    run_id = waits(ledger)
    ledger.client.zrem(ledger.keys.active(), gone)
    overdue(ledger, run_id, STEP_PLAN)
    assert ledger.reap(run_id, STEP_PLAN)["what"] == "publish"
    assert claim(ledger, run_id, STEP_PLAN).fence == 1


def test_a_run_whose_worker_died_keeps_its_turn(ledger: Ledger) -> None:
    rules(ledger, 1)
    run_id, _ = planned(ledger, chain("a"))
    waits(ledger)
    claim(ledger, run_id, "model.p.a")
    overdue(ledger, run_id, "model.p.a")
    assert ledger.reap(run_id, "model.p.a")["publish"] == ("model.p.a",)


def test_a_run_that_only_waits_for_a_retry_lets_others_go_on(ledger: Ledger) -> None:
    rules(ledger, 1)
    run_id, _ = planned(ledger, chain("a"))
    other = waits(ledger)
    granted = claim(ledger, run_id, "model.p.a")
    assert ledger.give_back(granted, "retry", wait=60) == (f"{other} {STEP_PLAN}",)
    assert claim(ledger, run_id, "model.p.a").tries == 2


def test_a_run_on_a_file_needs_no_turn(ledger: Ledger) -> None:
    rules(ledger, 1)
    planned(ledger, chain("a"), lock="file")
    assert claim(ledger, submit(ledger), STEP_PLAN).fence == 1


@pytest.mark.parametrize(
    ("workers", "turns"),
    [
        ([{"seen": 100, "processes": 2, "contexts": 8}], 2),
        ([{"seen": 100, "processes": 6}, {"seen": 99, "processes": 3, "contexts": 32}], 9),
        ([{"seen": 100, "processes": 2}, {"seen": 10, "processes": 90}], 2),
        ([], 1),
    ],
)
def test_as_many_runs_go_on_as_there_are_processes(workers: list[dict[str, Any]], turns: int) -> None:
    assert turns_of(msgspec.convert(workers, list[WorkerEntry]), 100.0) == turns


def test_a_run_has_one_step_under_way_while_another_waits_in_line(ledger: Ledger) -> None:
    rules(ledger, 1)
    run_id = submit(ledger)
    plan = claim(ledger, run_id, STEP_PLAN)
    waits(ledger)
    nodes = chain("a", "b", "c")
    ledger.stage(plan, nodes, roots=tuple(node.id for node in nodes))
    ledger.finish(plan, Move(word="planned", nodes=3, facts={"parallel": 4}))
    due = ledger.finish(claim(ledger, run_id, STEP_START), Move(word="success"), result=b"{}")
    assert len(due) == 1
    assert len(ledger.finish(claim(ledger, run_id, due[0]), Move(word="success"), result=b"{}")) == 1


def test_the_last_run_to_leave_the_line_wakes_the_runs_with_a_turn(ledger: Ledger) -> None:
    rules(ledger, 2)
    short, _ = planned(ledger, chain("a"))
    wide = submit(ledger)
    plan = claim(ledger, wide, STEP_PLAN)
    last = waits(ledger)
    nodes = chain("a", "b", "c")
    ledger.stage(plan, nodes, roots=tuple(node.id for node in nodes))
    ledger.finish(plan, Move(word="planned", nodes=3, facts={"parallel": 4}))
    (first,) = ledger.finish(claim(ledger, wide, STEP_START), Move(word="success"), result=b"{}")
    claim(ledger, wide, first)
    assert finish_only_node(ledger, short) == (f"{last} {STEP_PLAN}", f"{wide} {STEP_PLAN}")
    refused = ledger.claim(wide, STEP_PLAN, OWNER)
    assert isinstance(refused, Refusal)
    assert len(refused.publish) == 2
    assert not ledger.client.hexists(ledger.keys.turns_rules(), "narrow")


def test_less_urgent_runs_in_line_leave_a_run_its_threads(ledger: Ledger) -> None:
    rules(ledger, 1)
    run_id = submit(ledger)
    plan = claim(ledger, run_id, STEP_PLAN)
    waits(ledger, priority=9)
    nodes = chain("a", "b", "c")
    ledger.stage(plan, nodes, roots=tuple(node.id for node in nodes))
    ledger.finish(plan, Move(word="planned", nodes=3, facts={"parallel": 4}))
    assert len(ledger.finish(claim(ledger, run_id, STEP_START), Move(word="success"), result=b"{}")) == 3
    assert not ledger.others_wait_in_line(run_id, "queue")


def test_the_process_of_a_run_goes_on_with_it_while_others_wait_in_line(ledger: Ledger) -> None:
    rules(ledger, 1)
    run_id = submit(ledger, priority=5)
    claim(ledger, run_id, STEP_PLAN)
    assert not ledger.others_wait_in_line(run_id, "queue")
    waits(ledger, priority=5)
    assert ledger.others_wait_in_line(run_id, "queue")
    ledger.client.lpush("queue", b"more urgent")
    assert not ledger.others_wait_in_line(run_id, "queue")


def test_run_that_no_worker_of_its_dbt_executes_gives_its_turn_up(ledger: Ledger) -> None:
    rules(ledger, 1)
    ledger.dbt = "1.10.0"
    run_id = submit(ledger)
    plan = claim(ledger, run_id, STEP_PLAN)
    ledger.stage(plan, chain("a"), roots=("model.p.a",))
    ledger.finish(plan, Move(word="planned", nodes=1, facts={"dbt": "1.10.0", "parallel": 4}))
    ledger.dbt = "1.11.0"  # all workers were upgraded
    other = waits(ledger)
    assert ledger.claim(run_id, STEP_START, OWNER) == Refusal(OTHER_DBT, (f"{other} {STEP_PLAN}",))
    assert claim(ledger, other, STEP_PLAN).fence == 1


def test_empty_line_does_not_shorten_the_delay_of_a_plans_retry(ledger: Ledger) -> None:
    rules(ledger, 2)
    run_id = submit(ledger)
    plan = claim(ledger, run_id, STEP_PLAN)
    second, _ = planned(ledger, chain("a", "b"))
    waiting = waits(ledger)
    ledger.finish(claim(ledger, second, "model.p.a"), Move(word="success"))
    ledger.give_back(plan, "retry", wait=60)
    _, due = ledger.cancel(waiting)
    assert f"{run_id} {STEP_PLAN}" not in due
    assert isinstance(ledger.claim(waiting, STEP_PLAN, OWNER), Claim)
