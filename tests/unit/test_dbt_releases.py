"""The ledger keeps a run with workers of the dbt release that planned it."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.test_ledger import chain, planned
from workers.ledger.ledger import OTHER_DBT, Ledger
from workers.ledger.records import Claim, Move, Refusal
from workers.sessions.warehouse_lock import Session, WarehouseLock

NODE = "model.p.a"


def with_dbt(ledger: Ledger, dbt: str) -> Ledger:
    """The same server, as a worker with that release of dbt sees it."""
    return Ledger(ledger.client, keys=ledger.keys, lease_ms=ledger.lease_ms, dbt=dbt)


@pytest.fixture
def run_id(ledger: Ledger) -> str:
    """A run that dbt 1.11.16 planned; its node is handed out."""
    run_id, handed = planned(ledger, chain("a", "b"))
    assert handed == (NODE,)
    ledger.client.hset(ledger.keys.run(run_id), "dbt", "1.11.16")
    return run_id


def test_a_worker_with_another_dbt_is_refused_and_nothing_is_counted(ledger: Ledger, run_id: str) -> None:
    before = ledger.client.hget(ledger.keys.steps(run_id), NODE)
    for _ in range(3):
        refused = with_dbt(ledger, "1.12.6").claim(run_id, NODE, "other:1")
        assert refused == Refusal(OTHER_DBT)
    assert ledger.client.hget(ledger.keys.steps(run_id), NODE) == before
    claim = with_dbt(ledger, "1.11.16").claim(run_id, NODE, "right:1")
    assert isinstance(claim, Claim)
    assert (claim.tries, claim.losses) == (1, 0)


def test_the_reaper_looks_for_a_message_that_was_passed_on_later_than_for_others(
    ledger: Ledger, run_id: str
) -> None:
    name = f"{run_id} {NODE}"
    before = ledger.client.zscore(ledger.keys.watches(), name)
    with_dbt(ledger, "1.12.6").claim(run_id, NODE, "other:1")
    after = ledger.client.zscore(ledger.keys.watches(), name)
    assert before is not None
    assert after is not None
    assert after - before >= 10_000


def test_a_step_that_is_under_way_is_not_passed_on(ledger: Ledger, run_id: str) -> None:
    with_dbt(ledger, "1.11.16").claim(run_id, NODE, "right:1")
    refused = with_dbt(ledger, "1.12.6").claim(run_id, NODE, "other:1")
    assert refused == Refusal("step is running")


def test_a_worker_that_does_not_tell_its_dbt_executes_what_it_gets(ledger: Ledger, run_id: str) -> None:
    assert isinstance(ledger.claim(run_id, NODE, "old:1"), Claim)


def test_a_session_is_of_the_same_dbt(ledger: Ledger) -> None:
    run_id, _ = planned(ledger, chain("a"), lock="duckdb:/f")
    ledger.client.hset(ledger.keys.run(run_id), "dbt", "1.11.16")
    other, right = (WarehouseLock(with_dbt(ledger, dbt)) for dbt in ("1.12.6", "1.11.16"))
    assert other.enter(run_id, "duckdb:/f", "other:1") == OTHER_DBT
    assert isinstance(right.enter(run_id, "duckdb:/f", "right:1"), Session)


def test_only_a_run_that_is_stopped_is_left_to_any_dbt(ledger: Ledger, run_id: str) -> None:
    other = with_dbt(ledger, "1.12.6")
    assert not other.call("disown", run_id)
    assert isinstance(other.claim(run_id, NODE, "other:1"), Refusal)
    ledger.cancel(run_id)
    assert other.call("disown", run_id)
    claim = other.claim(run_id, "@close", "other:1")
    assert isinstance(claim, Claim)
    assert claim.orphaned
    final = msgspec.json.encode({"return_code": 1}).decode()
    other.finish(claim, Move(word="error", final=final, final_state="cancelled"))
    assert not other.call("disown", run_id)
    assert other.fact(run_id, "state") == "cancelled"


def test_disown_creates_no_run(ledger: Ledger) -> None:
    assert not ledger.call("disown", "20250101T000000-0123456789ab")
    assert not ledger.client.exists(ledger.keys.run("20250101T000000-0123456789ab"))
