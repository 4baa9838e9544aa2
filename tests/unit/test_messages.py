"""Validation of messages."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contract.errors import InvalidMessageError
from workers.contract.keys import Keys, is_run_id, new_run_id, task_name
from workers.contract.messages import (
    MAX_REQUEST_BYTES,
    Limits,
    RetryPolicy,
    RunRequest,
    decode_request,
    encode_request,
    step_task,
)
from workers.contract.task_message import task_message
from workers.supervision.message_guard import problem_with

RUN = "20250101T000000-0123456789ab"


def plain(**changes: Any) -> dict[str, Any]:
    """A valid request as JSON types, with changes; None removes a field."""
    fields: dict[str, Any] = json.loads(encode_request(request()))
    fields.update(changes)
    return {name: value for name, value in fields.items() if value is not None}


def request(**changes: Any) -> RunRequest:
    return msgspec.structs.replace(
        RunRequest(run_id=RUN, args=("run",), cwd="/c", project_dir="/c/dbt"), **changes
    )


def test_a_request_comes_back_as_it_was() -> None:
    given_request = request(
        args=("run", "--vars", '{"a": "é"}'), env={"DATABASE_PATH": "x"}, retry=RetryPolicy(max_attempts=7),
        required_models=("a",), debug=True, description="nightly", submitted_at=1.5,
    )  # fmt: skip
    assert decode_request(encode_request(given_request)) == given_request


def _of_environ(min_size: int = 0) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=min_size, max_size=9)


@given(
    st.lists(st.text(max_size=50), min_size=1, max_size=5),
    st.dictionaries(_of_environ(min_size=1).filter(lambda name: "=" not in name), _of_environ()),
)
def test_any_text_survives(args: list[str], env: dict[str, str]) -> None:
    given_request = request(args=tuple(args), env=env)
    assert decode_request(encode_request(given_request)) == given_request


def test_fields_of_a_newer_release_are_ignored() -> None:
    newer = plain(spice="hot", retry={"max_attempts": 7, "spice": 1}, limits={"deadline": 5, "spice": []})
    assert decode_request(json.dumps(newer)) == request(
        retry=RetryPolicy(max_attempts=7), limits=Limits(deadline=5)
    )


def test_default_fields_are_not_sent() -> None:
    """A worker of a release without a field accepts every request that does not use it."""
    assert plain().keys() == {"run_id", "args", "cwd", "project_dir"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"env": {"": "x"}}, "env"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"env": {"A": "x\0y"}}, "env"),
        ({"version": 2}, "message version 2; this side reads version 1: install the same dbt-relay release"),
        ({"version": 0}, "version"),
        ({"version": "1"}, "version"),
        ({"run_id": "../x"}, "run_id"),
        ({"run_id": None}, "run_id"),
        ({"args": []}, "args"),
        ({"args": "run"}, "args"),
        ({"args": ["run", 1]}, "args"),
        ({"args": ["x" * (1024 * 1024 + 1)]}, "args"),
        ({"cwd": None}, "cwd"),
        ({"project_dir": "/" + "x" * 5000}, "project_dir"),
        ({"env": ["A"]}, "env"),
        ({"env": {"A": 1}}, "env"),
        ({"retry": {"max_attempts": 0}}, "max_attempts"),
        ({"retry": {"max_attempts": 101}}, "max_attempts"),
        ({"retry": {"base_delay": -1}}, "base_delay"),
        ({"retry": {"backoff_factor": 0.5}}, "backoff_factor"),
        ({"debug": "yes"}, "debug"),
    ],
)
def test_a_bad_request_is_refused_with_its_field(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidMessageError, match=reason):
        decode_request(json.dumps(plain(**changes)))


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"\xff\xfe", b"[]", b"null", b'"run"', b"{}"])
def test_invalid_request_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidMessageError, match="not a valid run request"):
        decode_request(raw)


def test_too_large_request_is_refused_unread() -> None:
    with pytest.raises(
        InvalidMessageError, match=f"{MAX_REQUEST_BYTES + 1} bytes: at most {MAX_REQUEST_BYTES}"
    ):
        decode_request(b"x" * (MAX_REQUEST_BYTES + 1))


def test_run_ids_sort_by_time_and_are_recognised() -> None:
    first, second = new_run_id(1_750_000_000), new_run_id(1_750_000_001)
    assert first < second
    assert is_run_id(first)
    assert len({new_run_id() for _ in range(100)}) == 100
    for text in ("", "x", first + "\n", first[:-1], first.upper(), f"{first}/.."):
        assert not is_run_id(text)


@pytest.mark.parametrize(
    "step",
    ["@plan", "@start", "@close", "@command", "model.p.a", "test.p.not_null_a.1f", "model.p.Ü with space"],
)
def test_good_steps(step: str) -> None:
    assert step_task(RUN, step).step == step
    assert task_name(step) == {"@": f"relay.{step[1:]}"}.get(step[0], "relay.node")


@pytest.mark.parametrize(
    ("run_id", "step", "version"),
    [
        (RUN, "@session2", 1), (RUN, "@", 1), (RUN, "model", 1), (RUN, "model.a/b", 1), (RUN, "model.a\n", 1),
        (RUN, "", 1), (RUN, None, 1), (RUN, ["@plan"], 1), (RUN, "m." + "x" * 2000, 1), ("", "@plan", 1),
        (1, "@plan", 1), (RUN, "@plan", 2), (RUN, "@plan", None), (RUN, "@plan", True),
    ],
)  # fmt: skip
def test_bad_steps(run_id: object, step: object, version: object) -> None:
    with pytest.raises(InvalidMessageError, match="not a valid task message"):
        step_task(run_id, step, version)


def test_every_key_of_a_run_is_under_its_name() -> None:
    keys = Keys("ns")
    assert all(
        key.startswith(f"ns:run:{RUN}")
        for key in [*keys.of_run(RUN), keys.artifact(RUN, "x"), keys.channel(RUN)]
    )
    assert len(set(keys.of_run(RUN))) == 11


HEADERS = {
    "task": "relay.plan",
    "id": "1",
    "retries": 0,
    "eta": None,
    "timelimit": [None, None],
    "lang": "py",
}
BODY = [[RUN, "@plan"], {}, {"callbacks": None}]


@pytest.mark.parametrize(
    ("headers", "body", "reason"),
    [
        (HEADERS, BODY, None),
        ({**HEADERS, "timelimit": [60, 30.5]}, BODY, None),
        ({**HEADERS, "eta": "2026-01-01T00:00:00"}, BODY, None),
        ({**HEADERS, "id": 3}, BODY, "id"),
        ({}, BODY, "task"),
        (None, BODY, "not a task message"),
        ({**HEADERS, "retries": "2"}, BODY, "retries"),
        (HEADERS, {"task": "x"}, "array"),
        (HEADERS, [[], {}], "length"),
        (HEADERS, [[], [], {}], "object"),
    ],
)
def test_messages_that_would_stop_celery_are_detected(headers: Any, body: Any, reason: str | None) -> None:
    problem = problem_with(headers, body)
    assert (problem is None) if reason is None else (problem is not None and reason in problem)


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("model.shop.orders", "model orders"),
        ("model.shop.orders.v2", "model orders.v2"),
        ("seed.shop.raw", "seed raw"),
        ("test.shop.not_null_orders_id.cf6c17daed", "test not_null_orders_id"),
        ("test.shop.of_its_own", "test of_its_own"),
        ("unit_test.shop.orders.adds_up", "unit test orders.adds_up"),
        ("model.shop.a.0123456789", "model a.0123456789"),  # a version, not a hash
        ("@plan", None),
        ("@session", None),
        ("odd.id", None),
    ],
)
def test_the_task_of_a_node_is_shown_by_its_name(step: str, name: str | None) -> None:
    sent = json.loads(task_message("20250101T000000-0123456789ab", step, "q", 0))
    assert sent["headers"]["shadow"] == name
    assert sent["headers"]["argsrepr"] == f"({step!r}, '20250101T000000-0123456789ab')"
    args, kwargs, _ = json.loads(base64.b64decode(sent["body"]))  # the part that workers of all releases read
    assert (args, kwargs) == (["20250101T000000-0123456789ab", step], {})
