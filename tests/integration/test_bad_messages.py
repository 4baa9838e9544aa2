"""Invalid messages on the queue are refused with a reason, and the worker continues."""

from __future__ import annotations

import base64
import json
import os
import pickle
import random
import time
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from producer.client import RelayClient
from tests.support.fuzzing import entry, mutants
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import Gate, node, runner, submit
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool, WorkerPools
from workers.contract.keys import QUEUE, Keys, new_run_id
from workers.contract.messages import RunRequest, encode_request

NO_RUN = "20250101T000000-0123456789ab"
KEYS = Keys("relay")


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools) -> WorkerPool:
    return module_worker_pool(1, coverage=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project("trial", tmp_path_factory.mktemp("trial"))


def message(
    args: Any = (), kwargs: Any = None, *, task: Any = "relay.node", body: bytes | None = None,
    content_type: str = "application/json", **headers: Any,
) -> str:  # fmt: skip
    """A message as kombu keeps it in its list, with what the case makes of it."""
    identity = str(uuid.uuid4())
    if body is None:
        body = json.dumps(
            [args, kwargs or {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
        ).encode()
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(), "content-encoding": "utf-8", "content-type": content_type,
            "headers": {
                "lang": "py", "task": task, "id": identity, "root_id": identity, "parent_id": None, "group": None,
                "retries": 0, "eta": None, "expires": None, "timelimit": [None, None], **headers,
            },
            "properties": {
                "correlation_id": identity, "delivery_mode": 2, "delivery_tag": identity, "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": QUEUE}, "priority": 0,
            },
        }
    )  # fmt: skip


def rejected(client: redis.Redis) -> dict[str, int]:
    found: Any = client.hgetall(KEYS.rejected())
    return {reason: int(times) for reason, times in found.items()}


OF_OUR_TASK = {
    "a run id that is a number": (message([7, "@plan"]), "`str`"),
    "no run id": (message([None, "@plan"]), "`str`"),
    "a run id of another form": (message(["../../etc/passwd", "@plan"]), "regex"),
    "a run id that goes on": (message([NO_RUN + "\n*", "@plan"]), "regex"),
    "an unknown step": (message([NO_RUN, "@everything"]), "regex"),
    "a step that is a list": (message([NO_RUN, ["@plan"]]), "`str`"),
    "a step with control characters": (message([NO_RUN, "model.a\x00b"]), "regex"),
    "a step that is a path": (message([NO_RUN, "model.a/../b"]), "regex"),
    "another version": (message([NO_RUN, "@plan", 2]), "version"),
    "a version in words": (message([NO_RUN, "@plan", "one"]), "version"),
    "a step of ten megabytes": (message([NO_RUN, "model." + "x" * 10_000_000]), "length"),
    "a plan of nothing": (message([{}], task="relay.plan"), "`str`"),
    "a session of a number": (message([1.5], task="relay.session"), "`str`"),
    "arguments by name, wrong": (message([], {"run_id": True, "step": "@plan"}), "`str`"),
}


@pytest.mark.parametrize("case", OF_OUR_TASK)
def test_task_with_invalid_ids_is_refused_and_counted(
    case: str, pool: WorkerPool, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    body, reason = OF_OUR_TASK[case]
    redis_client.lpush(QUEUE, body)
    counted = wait_until(lambda: rejected(redis_client), 10, "the refusal")
    [(said, times)] = counted.items()
    assert times == 1
    assert said.startswith("not a valid task message: ")
    assert reason in said
    assert len(said) <= 200
    assert_at_work(pool, redis_server)


GZIP_BOMB = zlib.compress(b"[" + b"0," * 50_000_000, 1)


NOT_OUR_TASK: dict[str, tuple[str | bytes, str]] = {
    "a compressed body": (message(body=GZIP_BOMB, compression="application/x-gzip"), "compressed"),
    "a body that is said to be compressed": (message([NO_RUN, "@plan"], compression="zlib"), "compressed"),
    "a task that is a number": (message([NO_RUN, "@plan"], task=5), "task"),
    "pickle": (
        message(
            body=pickle.dumps(([NO_RUN, "@plan"], {}, {})), content_type="application/x-python-serialize"
        ),
        "not a task message",
    ),
    "yaml": (message(body=b"- [x]\n- {}\n- {}\n", content_type="application/x-yaml"), "not a task message"),
    "a body that is no JSON": (message(body=b"{not json"), "DecodeError"),
    "a body that is text": (message(body=b'"plan"'), "Expected `array`, got `str`"),
    "a body that is too short": (message(body=b'[["x"]]'), "length"),
    "arguments that are a mapping": (message({"run_id": NO_RUN}), "Expected `array`, got `object`"),
    "a time limit in words": (message([NO_RUN, "@plan"], timelimit=["a day", None]), "timelimit"),
    "retries in words": (message([NO_RUN, "@plan"], retries="many"), "retries"),
    "no headers": (json.dumps({**json.loads(message([NO_RUN])), "headers": {}}), "`task`"),
    "no envelope": (json.dumps({"hello": "worker"}), "not a message"),
    "text": ("hello, worker", "not a message"),
    "bytes": (bytes(range(256)), "not a message"),
    "nothing": ("", "not a message"),
    "null": ("null", "not a message"),
}
"""Messages that would stop Celery's consumer or that it would not count, and a part of the reason."""


@pytest.mark.parametrize("case", NOT_OUR_TASK)
def test_message_that_is_not_a_task_is_refused_and_counted(
    case: str, pool: WorkerPool, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    body, reason = NOT_OUR_TASK[case]
    redis_client.lpush(QUEUE, body)
    counted = wait_until(lambda: rejected(redis_client), 10, lambda: f"the refusal:\n{pool.log()}")
    [said] = counted
    assert said.startswith("not a ")
    assert reason in said
    wait_until(lambda: not redis_client.hlen("unacked"), 10, "the end of the message")
    assert_at_work(pool, redis_server)


def test_invalid_message_to_remote_control_is_refused(
    pool: WorkerPool, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    before = psutil.Process(pool.pid).memory_info().rss
    for body in (message(body=GZIP_BOMB, compression="application/x-gzip"), "{}", "noise"):
        assert redis_client.publish("/0.celery.pidbox", body) == 1  # kombu.transport.redis, ``fanout_prefix``
    wait_until(lambda: len(rejected(redis_client)) == 2, 10, lambda: f"the refusals:\n{pool.log()}")
    assert "Connection to broker lost" not in pool.log(1000)
    assert_at_work(pool, redis_server)
    assert psutil.Process(pool.pid).memory_info().rss < before + 50_000_000


LEFT_TO_CELERY = {
    "a task that nobody knows": (
        message([NO_RUN, "@plan"], task="relay.format_the_disk"),
        "relay.format_the_disk",
    ),
    "too many arguments": (message([NO_RUN, "@plan", 1, "more"]), "positional arguments"),
    "no arguments": (message([]), "missing"),
    "a name that is no argument": (message([NO_RUN, "@plan"], {"sudo": True}), "sudo"),
    "an eta that is no time": (message([NO_RUN, "@plan"], eta="tomorrow"), "tomorrow"),
}


@pytest.mark.parametrize("case", LEFT_TO_CELERY)
def test_message_that_celery_refuses_is_logged_and_counted(
    case: str, pool: WorkerPool, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    body, said = LEFT_TO_CELERY[case]
    before = pool.log_path.stat().st_size
    redis_client.lpush(QUEUE, body)

    def log() -> str:
        return pool.log_path.read_bytes()[before:].decode(errors="replace")

    wait_until(lambda: said in log(), 10, log)
    [(reason, times)] = wait_until(lambda: rejected(redis_client), 10, "the refusal").items()
    assert said in reason
    assert times == 1
    assert_at_work(pool, redis_server)


def assert_at_work(pool: WorkerPool, server: RedisServer) -> None:
    """The worker is the one it was, and takes the next message."""
    assert pool.alive
    with server.client() as client:
        before = sum(rejected(client).values())
        client.lpush(QUEUE, message(["are you there?", "@plan"]))
        wait_until(
            lambda: sum(rejected(client).values()) == before + 1, 15, lambda: f"an answer:\n{pool.log()}"
        )


def test_run_succeeds_among_invalid_messages(
    pool: WorkerPool, project: Path, redis_server: RedisServer, redis_client: redis.Redis, duckdb_file: Path
) -> None:
    for body, _ in OF_OUR_TASK.values():
        redis_client.lpush(QUEUE, body)
    for seed, step in enumerate(["@plan", "@session", "model.trial.int_raised", "model.a/../b"]):
        redis_client.lpush(QUEUE, *mutants(entry([NO_RUN, step]), random.Random(seed)))
    result = runner(redis_server, project).execute_command(
        ["build", "--select", "+int_raised"], stream_output=False
    )
    assert result.success, result.stdout
    assert pool.alive
    assert sum(rejected(redis_client).values()) >= len(OF_OUR_TASK) + 100


def test_forged_steps_change_nothing(
    pool: WorkerPool,
    project: Path,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    duckdb_file: Path,
    tmp_path: Path,
    module_worker_pool: WorkerPools,
) -> None:
    """Messages for steps that are done, running or not due yet, while the run is at its gate."""
    second = module_worker_pool(1, coverage=True)
    gate, relay = Gate(tmp_path / "gate"), RelayClient(redis_server.broker_url)
    run_id = submit(redis_server, project, ["run", "--select", "gated+", "--vars", f"{{gate: {gate.path}}}"])
    for event in relay.watch(run_id, timeout=60):
        if "before the gate" in event.text:
            break
    steps = [
        "@plan",
        "@start",
        "@close",
        "@command",
        "model.trial.gated",
        "model.trial.after_gated",
        "model.trial.nobody",
    ]
    states = redis_client.hgetall(KEYS.states(run_id))
    for step in steps:
        redis_client.lpush(QUEUE, message([run_id, step], task="relay.node"))
        redis_client.lpush(QUEUE, message([run_id, step], task="relay.close"))
    redis_client.lpush(QUEUE, message([run_id], task="relay.session"))
    wait_until(lambda: redis_client.llen(QUEUE) == 0, 10, "the messages to be taken")
    wait_until(lambda: not busy(second, redis_client), 10)
    assert redis_client.hgetall(KEYS.states(run_id)) == states
    gate.open()
    result = relay.result(run_id, timeout=60)
    assert result.success, result.stdout
    assert [len(each.attempts) for each in result.nodes] == [1, 1]
    assert node(result, "after_gated").started_at >= node(result, "gated").finished_at
    second.stop()


def busy(pool: WorkerPool, client: redis.Redis) -> bool:
    """Whether messages were taken that are not done yet (kombu keeps them as unacknowledged)."""
    return bool(client.hlen("unacked"))


REQUESTS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "another version": (
        lambda run_id: json.dumps({**json.loads(encode_request(request(run_id))), "version": 9}).encode(),
        "version 9",
    ),
    "a name that no environment can have": (
        lambda run_id: json.dumps(
            {**json.loads(encode_request(request(run_id))), "env": {"A=B": ""}}
        ).encode(),
        "env",
    ),
    "no JSON": (lambda _: b"\x00\x01garbage", "not a valid run request"),
    "no arguments": (
        lambda run_id: json.dumps({**json.loads(encode_request(request(run_id))), "args": []}).encode(),
        "args",
    ),
    "five megabytes": (
        lambda run_id: json.dumps(
            {**json.loads(encode_request(request(run_id))), "description": "x" * 5_000_000}
        ).encode(),
        "bytes",
    ),
}


def request(run_id: str) -> RunRequest:
    return RunRequest(
        run_id=run_id, args=("ls",), cwd=os.getcwd(), project_dir=os.getcwd(), submitted_at=time.time()
    )


@pytest.mark.parametrize("case", REQUESTS)
def test_run_with_invalid_request_fails_with_a_reason(
    case: str, pool: WorkerPool, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    """Somebody speaks another release: its run must not hang."""
    make, reason = REQUESTS[case]
    relay, run_id = RelayClient(redis_server.broker_url), new_run_id()
    relay.store.call("submit", run_id, make(run_id), "@command", 60, 0)
    relay.publish(run_id, ("@command",))
    wait_until(lambda: relay.store.fact(run_id, "state") == "failed", 10, "the run to end")
    last = relay.store.final(run_id)
    assert last is not None
    assert last.error is not None
    assert (last.return_code, last.error.category) == (2, "message")
    assert reason in last.error.message
    assert_at_work(pool, redis_server)


def test_unknown_command_fails_with_dbts_error(
    pool: WorkerPool, redis_server: RedisServer, project: Path
) -> None:
    """A producer that checks nothing: dbt does."""
    relay, run_id = RelayClient(redis_server.broker_url), new_run_id()
    relay.submit(RunRequest(run_id=run_id, args=("rnu",), cwd=str(project), project_dir=str(project)))
    result = relay.result(run_id, timeout=30)
    assert result.return_code == 2
    assert result.error is not None
    assert result.error.code == "unknown_command"
    assert "No such command 'rnu'" in result.error.detail


def test_folder_that_the_worker_does_not_have_is_named(pool: WorkerPool, redis_server: RedisServer) -> None:
    relay, run_id = RelayClient(redis_server.broker_url), new_run_id()
    relay.submit(RunRequest(run_id=run_id, args=("run",), cwd="/nowhere", project_dir="/nowhere"))
    result = relay.result(run_id, timeout=30)
    assert (result.success, result.return_code) == (False, 2)
    assert result.error is not None
    assert "/nowhere" in result.error.message
