"""Retry of an earlier run: the request that is submitted, and runs that cannot be retried."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from producer.cli.retry import named_run
from producer.client import RelayClient
from producer.runner import DbtRunner
from tests.support.fake_worker import FakeWorker
from workers.contract.errors import DbtUsageError, RelayError
from workers.contract.keys import new_run_id, submitted_at
from workers.contract.messages import RetryPolicy, RunRequest
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
    """Record a run of `args` that has ended; `which` is the command in its run results."""
    places = {"cwd": "/p", "project_dir": "/p/shop"}
    request = RunRequest(run_id=new_run_id(), args=tuple(args), **{**places, **options})
    relay.store.submit(request)
    results = None if which is None else {"args": {"which": which}, "results": []}
    last = FinalRecord(return_code=code, run_results=results)
    key = relay.store.keys.run(request.run_id)
    relay.store.client.hset(key, mapping={"state": "failed", "final": msgspec.json.encode(last)})
    return request


def test_retry_repeats_the_earlier_request_except_its_arguments(relay: RelayClient) -> None:
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
    # the new run starts with its plan step
    assert relay.store.client.hget(relay.store.keys.states(new_id), "@plan") is not None


def test_unknown_run_is_refused(relay: RelayClient) -> None:
    unknown = new_run_id()
    with pytest.raises(RelayError, match=f"there is no run {unknown}") as caught:
        relay.retry(unknown)
    assert caught.value.info is not None
    assert caught.value.info.code == "no_such_run"


def test_expired_run_is_refused_with_its_date(relay: RelayClient) -> None:
    with pytest.raises(RelayError, match="of 2025-01-01 00:00 UTC is no longer kept") as caught:
        relay.retry(GONE)
    assert caught.value.info is not None
    assert caught.value.info.code == "run_expired"


def test_active_run_is_refused(relay: RelayClient) -> None:
    request = RunRequest(run_id=new_run_id(), args=("run",), cwd="/p", project_dir="/p")
    relay.store.submit(request)
    with pytest.raises(DbtUsageError, match="is still active") as caught:
        relay.retry(request.run_id)
    assert f"dbt-relay watch {request.run_id}" in caught.value.suggested_fix


@pytest.mark.parametrize(
    ("args", "which", "code", "refused"),
    [
        (["ls"], None, 0, "left no run results: it runs no nodes"),
        (["run", "--select", "bad:method"], None, 2, "left no run results: dbt stopped before"),
        (["show", "-s", "a"], "show", 1, r"was `dbt show -s a`, which dbt cannot retry"),
    ],
)
def test_command_that_cannot_be_retried_is_refused(
    relay: RelayClient, args: list[str], which: str | None, code: int, refused: str
) -> None:
    old = ended(relay, args, which, code=code)
    with pytest.raises(DbtUsageError, match=refused) as caught:
        relay.retry(old.run_id)
    assert "Submit the command itself again" in caught.value.suggested_fix


def test_client_cannot_retry_a_run_of_an_embedded_stack(relay: RelayClient) -> None:
    old = ended(relay, ["run"], "run", env_file="/gone.json")
    with pytest.raises(DbtUsageError, match="environment"):
        relay.retry(old.run_id)
    # a caller with an environment of its own can: it starts from this request
    assert relay.retry_request(old.run_id).retry_of == old.run_id


def test_environment_values_are_read_from_the_callers_environment(
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


def test_workers_know_the_run_that_is_retried(relay: RelayClient, worker: FakeWorker) -> None:
    seen: list[str | None] = []

    def look(claim: Claim) -> None:
        request = worker.ledger.request(claim.run_id)
        assert request is not None
        seen.append(request.retry_of)

    worker.behaviour = {"a": look}
    old = ended(relay, ["run"], "run")
    assert relay.result(relay.retry(old.run_id), timeout=20).success
    assert seen == [old.run_id]


EARLIER = RetryPolicy(max_attempts=7, base_delay=9)


@pytest.mark.parametrize(
    ("keywords", "args", "policy"),
    [
        ({}, ("retry",), EARLIER),
        ({"threads": 8}, ("retry", "--threads", "8"), EARLIER),
        ({"options": ["--threads", "8"], "threads": 8}, ("retry", "--threads", "8"), EARLIER),
        ({"max_attempts": 2}, ("retry",), RetryPolicy(max_attempts=2, base_delay=9)),
    ],
)
def test_runner_retries_with_given_threads_and_attempts(
    relay: RelayClient, worker: FakeWorker, tmp_path: Path, keywords: Any, args: Any, policy: RetryPolicy
) -> None:
    old = ended(relay, ["run"], "run", retry=EARLIER, cwd=str(tmp_path), project_dir=str(tmp_path))
    runner = DbtRunner(tmp_path, threads=2, broker_url="redis://nowhere:1/0")
    result = runner.retry(old.run_id, stream_output=False, **keywords)
    request = worker.ledger.request(result.run_id)
    assert request is not None
    assert (request.args, request.retry, request.retry_of) == (args, policy, old.run_id)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"threads": 0}, "threads is 0: it must be a whole number of at least 1"),
        ({"max_attempts": 0}, r"at `\$.max_attempts`"),
        ({"options": ["--threads", "3"], "threads": 8}, "has --threads 3, and threads=8 was given too"),
    ],
)
def test_runner_refuses_invalid_threads_and_attempts_of_a_retry(
    relay: RelayClient, tmp_path: Path, keywords: Any, text: str
) -> None:
    old = ended(relay, ["run"], "run", cwd=str(tmp_path), project_dir=str(tmp_path))
    with pytest.raises(DbtUsageError, match=text):
        DbtRunner(tmp_path, broker_url="redis://nowhere:1/0").retry(old.run_id, **keywords)


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
        (["retry", "a", "b"], None),  # dbt's own error follows
    ],
)
def test_named_run_of_a_command_line(words: list[str], expected: tuple[str, list[str]] | None) -> None:
    assert named_run(words) == expected


def test_run_id_contains_the_time_of_submission() -> None:
    assert submitted_at(GONE) == 1735689600
    assert abs(submitted_at(new_run_id()) - time.time()) < 2
    assert submitted_at("yesterday") == 0
