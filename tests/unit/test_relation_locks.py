"""Two runs on the same relations: one writer at a time, and waiting nodes are woken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from workers.contract.keys import addressed, new_run_id
from workers.contract.messages import RetryPolicy, RunRequest
from workers.contract.purge import purge
from workers.engine.interface import StepResult
from workers.ledger.ledger import Ledger
from workers.ledger.records import Claim, FenceLostError, Move, Refusal, StagedNode

ORDERS, OTHERS = "T3JkZXJz", "T3RoZXJz"
A, B = "model.p.a", "model.p.b"


def begun(ledger: Ledger, *, parallel: int = 4, mode: str = "wait", a: str = ORDERS, b: str = OTHERS) -> str:
    """A run of two nodes that do not depend on each other, both handed out."""
    run_id = new_run_id()
    ledger.submit(RunRequest(run_id=run_id, args=("run",), cwd="/p", project_dir="/p"))
    plan = claim(ledger, run_id, "@plan")
    ledger.stage(plan, [StagedNode(A, 0, 1, (), lock=a), StagedNode(B, 0, 1, (), lock=b)], roots=(A, B))
    facts: dict[str, str | int | float] = {
        "parallel": parallel, "mode": "message", "lock": "", "relation_locks": mode,
    }  # fmt: skip
    ledger.finish(plan, Move(word="planned", facts=facts, nodes=2))
    ledger.finish(claim(ledger, run_id, "@start"), Move(word="success"))
    return run_id


def claim(ledger: Ledger, run_id: str, step: str) -> Claim:
    granted = ledger.claim(run_id, step, "host:1")
    assert isinstance(granted, Claim), granted
    return granted


def waits(ledger: Ledger, run_id: str, step: str, *, writer: str) -> Refusal:
    refused = ledger.claim(run_id, step, "host:2")
    assert isinstance(refused, Refusal), refused
    assert refused.reason == f"waiting for run {writer}, which is writing its relation"
    assert state(ledger, run_id, step) == b"waiting"
    return refused


def state(ledger: Ledger, run_id: str, step: str) -> bytes:
    found: bytes = ledger.client.hget(ledger.keys.states(run_id), step)  # type: ignore[assignment]
    return found


def locks(ledger: Ledger) -> set[str]:
    """What is left of locks and their lines."""
    found = {key.decode() for key in ledger.client.scan_iter(ledger.keys.locks() + "*")}
    return found - {ledger.keys.relation_writer(name) for name in (ORDERS, OTHERS)}


def overdue(ledger: Ledger, run_id: str, step: str) -> None:
    for key in (ledger.keys.leases(), ledger.keys.watches()):
        ledger.client.zadd(key, {f"{run_id} {step}": 1}, xx=True)


def test_the_second_writer_waits_and_is_woken_when_the_first_finishes(ledger: Ledger) -> None:
    first, second = begun(ledger), begun(ledger)
    writing = claim(ledger, first, A)
    waits(ledger, second, A, writer=first)
    assert ledger.finish(writing, Move(word="success")) == (f"{second} {A}",)
    assert addressed(first, f"{second} {A}") == (second, A)
    ledger.finish(claim(ledger, second, A), Move(word="success"))
    assert locks(ledger) == set()


def test_other_relations_are_not_waited_for(ledger: Ledger) -> None:
    first, second = begun(ledger), begun(ledger)
    claim(ledger, first, A)
    claim(ledger, second, B)
    claim(ledger, begun(ledger, a="", b=""), A)


def test_a_waiting_node_occupies_no_thread(ledger: Ledger) -> None:
    first, second = begun(ledger), begun(ledger, parallel=1)
    claim(ledger, first, A)
    assert waits(ledger, second, A, writer=first).publish == (B,)
    assert claim(ledger, second, B)


def test_a_woken_node_without_a_free_thread_leaves_the_line(ledger: Ledger) -> None:
    first, second, third = begun(ledger), begun(ledger, parallel=1), begun(ledger)
    writing = claim(ledger, first, A)
    waits(ledger, second, A, writer=first)
    waits(ledger, third, A, writer=first)
    other = claim(ledger, second, B)
    assert ledger.finish(writing, Move(word="success")) == (f"{second} {A}",)
    assert ledger.claim(second, A, "host:1") == Refusal("no free thread", (f"{third} {A}",))
    claim(ledger, third, A)
    assert ledger.finish(other, Move(word="success")) == (A,)
    waits(ledger, second, A, writer=third)


def test_the_line_is_first_come_first_served(ledger: Ledger) -> None:
    first, second, third = begun(ledger), begun(ledger), begun(ledger)
    writing = claim(ledger, first, A)
    waits(ledger, second, A, writer=first)
    ledger.finish(writing, Move(word="success"))
    waits(ledger, third, A, writer=second)  # it was called and has not come yet
    writing = claim(ledger, second, A)
    waits(ledger, third, A, writer=second)  # a message that came twice
    assert ledger.finish(writing, Move(word="success")) == (f"{third} {A}",)


@pytest.mark.parametrize("kind", ["retry", "release"])
def test_a_node_that_is_given_back_releases_its_relation(ledger: Ledger, kind: str) -> None:
    first, second = begun(ledger), begun(ledger)
    writing = claim(ledger, first, A)
    waits(ledger, second, A, writer=first)
    assert f"{second} {A}" in ledger.give_back(writing, kind, wait=1)
    waits(ledger, first, A, writer=second)


def test_a_lock_is_released_when_its_expired_lease_is_reaped(ledger: Ledger) -> None:
    first, second = begun(ledger), begun(ledger)
    writing = claim(ledger, first, A)
    waits(ledger, second, A, writer=first)
    overdue(ledger, first, A)
    waits(ledger, second, A, writer=first)  # overdue, but not yet reaped
    assert ledger.beat(first, [(A, writing.fence)]) == ["ok"]
    overdue(ledger, first, A)
    lost = ledger.reap(first, A)
    assert (lost["what"], set(lost["publish"])) == ("lost", {f"{second} {A}", A})
    claim(ledger, second, A)
    with pytest.raises(FenceLostError):
        ledger.finish(writing, Move(word="success"))
    waits(ledger, first, A, writer=second)


def test_the_reaper_repeats_a_lost_wake_up(ledger: Ledger) -> None:
    first, second = begun(ledger), begun(ledger)
    writing = claim(ledger, first, A)
    waits(ledger, second, A, writer=first)
    overdue(ledger, second, A)
    assert ledger.reap(second, A)["what"] == "nothing"
    ledger.finish(writing, Move(word="success"))
    overdue(ledger, second, A)
    assert ledger.reap(second, A)["what"] == "publish"


def test_a_run_that_waits_is_cancelled_at_once(ledger: Ledger) -> None:
    first, second, third = begun(ledger), begun(ledger), begun(ledger)
    writing = claim(ledger, first, A)
    waits(ledger, second, A, writer=first)
    waits(ledger, third, A, writer=first)
    assert ledger.cancel(second) == ("active", ("@close",))
    assert ledger.finish(writing, Move(word="success")) == (f"{third} {A}",)
    # the line moves on too when the one that was called is cancelled
    fourth = begun(ledger)
    waits(ledger, fourth, A, writer=third)
    assert set(ledger.cancel(third)[1]) == {"@close", f"{fourth} {A}"}


def test_a_node_that_is_skipped_writes_nothing(ledger: Ledger) -> None:
    first, second = begun(ledger), begun(ledger)
    claim(ledger, first, A)
    raw = b'{"fence":0,"losses":0,"tries":0,"skip":true,"cause":"x","lock":"' + ORDERS.encode() + b'"}'
    ledger.client.hset(ledger.keys.steps(second), A, raw)
    skipped = claim(ledger, second, A)
    assert skipped.skip
    ledger.finish(skipped, Move(word="skipped"))
    waits(ledger, begun(ledger), A, writer=first)


def test_with_refuse_the_claim_names_the_writing_run(ledger: Ledger) -> None:
    first, second = begun(ledger), begun(ledger, mode="refuse")
    writing = claim(ledger, first, A)
    refused = claim(ledger, second, A)
    assert refused.busy == first
    ledger.finish(refused, Move(word="error", blocks=True))
    waits(ledger, begun(ledger), A, writer=first)  # it did not take the lock with it
    ledger.finish(writing, Move(word="success"))
    assert claim(ledger, second, B).busy == ""


def test_a_relation_stays_locked_for_the_lease_of_a_worker_whose_run_ended(ledger: Ledger) -> None:
    first, second = begun(ledger), begun(ledger)
    claim(ledger, first, A)
    other = claim(ledger, first, B)
    waits(ledger, second, A, writer=first)
    waits(ledger, second, B, writer=first)
    assert ledger.finish(other, Move(word="error", final="{}", final_state="failed")) == (f"{second} {B}",)
    waits(ledger, second, A, writer=first)
    assert 50_000 < ledger.client.pttl(ledger.keys.relation(ORDERS)) <= 60_000  # type: ignore[operator]
    purge(ledger, older_than=0)
    waits(ledger, second, A, writer=first)
    ledger.client.delete(ledger.keys.relation(ORDERS))  # its time is up
    overdue(ledger, second, A)
    assert ledger.reap(second, A)["what"] == "publish"
    claim(ledger, second, A)


def test_a_run_that_ends_with_nodes_in_line_leaves_it(ledger: Ledger) -> None:
    first, second, third = begun(ledger), begun(ledger), begun(ledger)
    writing = claim(ledger, first, A)
    waits(ledger, second, A, writer=first)
    waits(ledger, third, A, writer=first)
    other = claim(ledger, second, B)
    ledger.finish(writing, Move(word="success"))
    ended = ledger.finish(other, Move(word="error", final="{}", final_state="failed"))
    assert ended == (f"{third} {A}",)


def test_forced_purge_releases_relations_that_are_not_being_written(ledger: Ledger) -> None:
    first, second, third = begun(ledger), begun(ledger), begun(ledger)
    claim(ledger, first, A)
    waits(ledger, second, A, writer=first)
    waits(ledger, third, A, writer=first)
    purge(ledger, named=[second], force=True)
    line = ledger.client.lrange(ledger.keys.relation_waiters(ORDERS), 0, -1)
    assert line == [f"{third} {A}".encode()]
    purge(ledger, named=[first], force=True)
    waits(ledger, third, A, writer=first)
    assert ledger.client.pttl(ledger.keys.relation(ORDERS)) > 0  # type: ignore[operator]


def test_a_removed_run_does_not_block_the_line(ledger: Ledger) -> None:
    first, second, third = begun(ledger), begun(ledger), begun(ledger)
    writing = claim(ledger, first, A)
    waits(ledger, second, A, writer=first)
    waits(ledger, third, A, writer=first)
    ledger.client.zrem(ledger.keys.active(), second)  # keys removed by hand
    ledger.client.delete(*ledger.keys.of_run(second))
    assert ledger.finish(writing, Move(word="success")) == (f"{third} {A}",)
    claim(ledger, third, A)


def test_one_event_names_the_run_that_a_node_waits_for(ledger: Ledger) -> None:
    first, second = begun(ledger), begun(ledger)
    claim(ledger, first, A)
    waits(ledger, second, A, writer=first)
    waits(ledger, second, A, writer=first)
    said = [entry[b"e"] for _, entry in ledger.client.xrange(ledger.keys.events(second))]  # type: ignore[union-attr]
    waiting = [each for each in said if b'"waiting"' in each]
    assert len(waiting) == 1
    assert first.encode() in waiting[0]


def test_a_claim_after_another_run_wrote_is_stale(ledger: Ledger) -> None:
    first, second = begun(ledger), begun(ledger)
    alone = claim(ledger, first, A)
    assert not alone.stale
    ledger.finish(alone, Move(word="success"))
    after = claim(ledger, second, A)  # it did not have to wait, and yet
    assert after.stale
    assert 0 < ledger.client.ttl(ledger.keys.relation_writer(ORDERS)) <= 86400  # type: ignore[operator]
    ledger.give_back(after, "retry")
    assert not claim(ledger, second, A).stale
    assert not claim(ledger, second, B).stale


def test_a_run_alone_records_no_writer(ledger: Ledger) -> None:
    run_id = begun(ledger)
    ledger.finish(claim(ledger, run_id, A), Move(word="success"))
    assert not ledger.client.exists(ledger.keys.relation_writer(ORDERS))
    other = begun(ledger)
    ledger.finish(claim(ledger, run_id, B), Move(word="success"))
    assert ledger.client.exists(ledger.keys.relation_writer(OTHERS))
    ledger.cancel(run_id)
    ledger.finish(claim(ledger, run_id, "@close"), Move(word="done", final="{}", final_state="succeeded"))
    assert purge(ledger).locks == 0
    ledger.finish(claim(ledger, other, B), Move(word="success"))
    assert not ledger.client.exists(ledger.keys.relation_writer(OTHERS))


def test_refused_node_fails_with_an_error_that_names_the_writing_run(ledger: Ledger) -> None:
    from workers.runs.claimed_step import (
        ClaimedStep,  # Celery's app, which a test of the ledger does not need
    )
    from workers.runs.decision import decide
    from workers.runs.recording import record
    from workers.runs.task_errors import StepFailedError

    first, second = begun(ledger), begun(ledger, mode="refuse")
    claim(ledger, first, A)
    refused = claim(ledger, second, A)
    runtime: Any = SimpleNamespace(
        ledger=ledger, owner="host:2", send=lambda *_: None, emit_withheld=lambda **_: None
    )
    decision = decide(refused, None, RetryPolicy(), 3)
    with pytest.raises(
        StepFailedError, match=f"relation_busy: {A} .* run {first} is writing its relation Fix: "
    ):
        record(ClaimedStep(runtime, cast(Any, None), refused, 0.0), decision)
    result = msgspec.json.decode(ledger.result(second, A) or b"", type=StepResult)
    error = result.error
    assert error is not None
    assert (result.status, error.code, error.error_class) == ("error", "relation_busy", "DbtLockError")
    assert first in error.message
    assert f"dbt-relay retry {second}" in error.suggested_fix


def test_run_that_waits_for_a_purged_run_asks_the_warehouse_again(ledger: Ledger) -> None:
    first, second = begun(ledger), begun(ledger)
    claim(ledger, first, A)
    purge(ledger, named=[first], force=True)
    ledger.client.delete(ledger.keys.locks() + f"relation:{ORDERS}")  # the lock expires with the lease
    assert claim(ledger, second, A).stale
