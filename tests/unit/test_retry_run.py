"""What is submitted to run the rest of an earlier run again, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from producer.client import RelayClient
from producer.retry_run import named_run
from tests.support.fake_worker import FakeWorker
from workers.contract.errors import DbtUsageError, RelayError
from workers.contract.keys import new_run_id, submitted_at
from workers.contract.messages import RunRequest
from workers.contract.run_store import ENV_NAMES, FinalRecord
from workers.ledger.records import Claim

GONE = "20250101T000000-000000000000"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorker]:
    with FakeWorker({"a": ()}).running(monkeypatch) as worker:
        yield worker


@pytest.fixture
def relay(worker: FakeWorker) -> RelayClient:
    return RelayClient("redis://nowhere:1/0")


def ended(
    relay: RelayClient, args: Sequence[str], which: str | None, *, code: int = 1, **options: Any
) -> RunRequest:
    """A run of `args` that has ended; `which` is the command of the results it left."""
    asked = RunRequest(
        run_id=new_run_id(), args=tuple(args), cwd="/p", project_dir="/p/shop", **options
    )  # fmt: skip
    relay.store.submit(asked)
    results = None if which is None else {"args": {"which": which}, "results": []}
    last = FinalRecord(return_code=code, run_results=results)
    key = relay.store.keys.run(asked.run_id)
    relay.store.client.hset(key, mapping={"state": "failed", "final": msgspec.json.encode(last)})
    return asked


def test_the_new_run_is_the_old_ones_in_all_but_its_arguments(relay: RelayClient) -> None:
    words = ["--log-path", "logs", "build", "--project-dir", "shop", "-s", "a", "b", "--profiles-dir=/q"]
    old = ended(relay, words, "build", env={"REGION": "north"}, debug=True, required_models=("a",))
    new_id = relay.retry(old.run_id, ["retry", "--threads", "2", "--profiles-dir", "/elsewhere"])
    new = relay.store.request(new_id)
    assert new is not None
    assert new.args == (
        "retry", "--threads", "2", "--profiles-dir", "/elsewhere", "--log-path", "logs", "--project-dir", "shop",
    )  # fmt: skip
    assert (new.command, new.retry_of) == ("retry", old.run_id)
    assert (new.cwd, new.project_dir, new.env, new.debug) == ("/p", "/p/shop", {"REGION": "north"}, True)
    assert new.required_models == ()
    assert new.submitted_at > 0
    # it is planned, so that its nodes can be executed one by one
    assert relay.store.client.hget(relay.store.keys.states(new_id), "@plan") is not None


def test_a_run_that_is_not_known(relay: RelayClient) -> None:
    unknown = new_run_id()
    with pytest.raises(RelayError, match=f"there is no run {unknown}") as caught:
        relay.retry(unknown)
    assert caught.value.info is not None
    assert caught.value.info.code == "no_such_run"


def test_a_run_whose_results_have_expired(relay: RelayClient) -> None:
    with pytest.raises(RelayError, match="of 2025-01-01 00:00 UTC is no longer kept") as caught:
        relay.retry(GONE)
    assert caught.value.info is not None
    assert caught.value.info.code == "run_expired"


def test_a_run_that_is_still_going(relay: RelayClient) -> None:
    asked = RunRequest(run_id=new_run_id(), args=("run",), cwd="/p", project_dir="/p")
    relay.store.submit(asked)
    with pytest.raises(DbtUsageError, match="is still going") as caught:
        relay.retry(asked.run_id)
    assert f"dbt-relay watch {asked.run_id}" in caught.value.suggested_fix


@pytest.mark.parametrize(
    ("args", "which", "code", "refused"),
    [
        (["ls"], None, 0, "left no run results, for it runs no nodes"),
        (["run", "--select", "bad:method"], None, 2, "left no run results, for dbt gave it up"),
        (["show", "-s", "a"], "show", 1, r"was `dbt show -s a`, which dbt cannot retry"),
    ],
)
def test_a_run_that_cannot_be_retried(
    relay: RelayClient, args: list[str], which: str | None, code: int, refused: str
) -> None:
    old = ended(relay, args, which, code=code)
    with pytest.raises(DbtUsageError, match=refused) as caught:
        relay.retry(old.run_id)
    assert "Submit the command itself again" in caught.value.suggested_fix


def test_a_run_whose_environment_was_in_a_file(relay: RelayClient) -> None:
    old = ended(relay, ["run"], "run", env_file="/gone.json")
    with pytest.raises(DbtUsageError, match="environment"):
        relay.retry(old.run_id)
    # who brings an environment goes on from here
    assert relay.retry_request(old.run_id).retry_of == old.run_id


def test_values_that_an_ended_run_does_not_keep_are_the_callers(
    relay: RelayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ended(relay, ["run"], "run")
    relay.store.client.hset(relay.store.keys.run(old.run_id), ENV_NAMES, '["REGION", "STAGE"]')
    monkeypatch.setenv("STAGE", "test")
    with pytest.raises(DbtUsageError, match="lacks REGION"):
        relay.retry(old.run_id)
    monkeypatch.setenv("REGION", "south")
    new = relay.store.request(relay.retry(old.run_id))
    assert new is not None
    assert new.env == {"REGION": "south", "STAGE": "test"}


def test_a_worker_sees_of_which_run_it_is_the_retry(relay: RelayClient, worker: FakeWorker) -> None:
    seen: list[str | None] = []

    def look(claim: Claim) -> None:
        request = worker.ledger.request(claim.run_id)
        assert request is not None
        seen.append(request.retry_of)

    worker.behaviour = {"a": look}
    old = ended(relay, ["run"], "run")
    assert relay.result(relay.retry(old.run_id), timeout=20).success
    assert seen == [old.run_id]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["retry", "latest"], ("latest", ["retry"])),
        (["retry", "--threads", "8", GONE], (GONE, ["retry", "--threads", "8"])),
        (["--debug", "retry", "2025", "--vars", "2025"], ("2025", ["--debug", "retry", "--vars", "2025"])),
        (["retry", "retry"], ("retry", ["retry"])),
        (["retry"], None),
        (["retry", "--vars", "{a: 1}"], None),
        (["run", "--select", "retry"], None),
        (["run-operation", "retry"], None),
        (["retry", "a", "b"], None),  # dbt's own refusal says what is wrong
    ],
)
def test_a_run_on_the_command_line(words: list[str], expected: tuple[str, list[str]] | None) -> None:
    assert named_run(words) == expected


def test_when_a_run_was_submitted() -> None:
    assert submitted_at(GONE) == 1735689600
    assert abs(submitted_at(new_run_id()) - time.time()) < 2
    assert submitted_at("yesterday") == 0
