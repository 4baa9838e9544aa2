"""Fuzzed messages through all that a worker puts between its queue and the ledger: nothing gets past it.

In this process, without a broker: the bytes of a queue entry go through kombu's channel, Celery's consumer and
request, the tracer and the task, up to the ledger. Each entry must be refused with a reason and counted, or
claim a step of a run that does not exist; nothing may be raised, since that would end a worker.

Hypothesis makes entries that are wrong in some places; each has a family of mutants, which cost a tenth of it.
``RELAY_FUZZ_EXAMPLES`` sets how many payloads in all (`make fuzz`: 100000).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import fakeredis
import msgspec
import pytest
from celery.app.trace import trace_task_ret
from celery.exceptions import Ignore
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kombu.messaging import Consumer
from kombu.transport import redis as kombu_redis

from workers import tasks
from workers.app import app
from workers.contract.errors import InvalidMessageError
from workers.contract.messages import RunRequest, decode_request, encode_request
from workers.contract.names import QUEUE, Keys
from workers.intake import GuardedChannel, GuardedConsumer, count_with
from workers.ledger import Ledger

RUN = "20250101T000000-0123456789ab"
FAMILY = 50
EXAMPLES = int(os.environ.get("RELAY_FUZZ_EXAMPLES", "2000"))
fuzzed = settings(
    max_examples=max(1, EXAMPLES // FAMILY), deadline=None, database=None, suppress_health_check=list(HealthCheck),
    print_blob=True,
)  # fmt: skip


class Worker:
    """A worker's way from the queue to the ledger; its broker is a list and its pool is this process.

    Attributes:
        claims: what tasks asked of the ledger.
        failed: tasks that ended otherwise than by a word of theirs.
    """

    def __init__(self) -> None:
        self.redis = fakeredis.FakeRedis()
        self.ledger = Ledger(self.redis, keys=Keys("fuzz"))
        self.claims = 0
        self.failed: list[Any] = []
        self.reasons: list[str] = []
        count_with(self.refused)
        self.channel = self._channel()
        accepted = Consumer(
            self.channel, accept=["json"], on_message=self._consumer().create_task_handler(),
            on_decode_error=self._consumer().on_decode_error,
        )  # fmt: skip

        def received(raw: Any) -> None:  # as kombu.transport.virtual.Channel.basic_consume has it
            message = self.channel.Message(raw, channel=self.channel)
            self.channel.qos.append(message, message.delivery_tag)
            accepted._receive_callback(message)

        self.channel.connection = SimpleNamespace(_deliver=lambda raw, _: received(raw))

    def refused(self, reason: str) -> None:
        self.reasons.append(reason)

    def _channel(self) -> Any:
        channel = GuardedChannel.__new__(GuardedChannel)
        channel._in_poll = channel._closed = None
        channel.client = MagicMock()
        channel._queue_cycle = MagicMock()
        channel.conn_or_acquire = lambda client=None: contextlib.nullcontext(client or self.redis)
        channel._flush_brpop_reauth = lambda: None
        channel._qos = kombu_redis.QoS(channel)
        return channel

    def _consumer(self) -> Any:
        consumer = GuardedConsumer.__new__(GuardedConsumer)
        consumer.app, consumer.hostname, consumer.event_dispatcher = app, "fuzz", None
        consumer.connection_errors, consumer.disable_rate_limits = (), True
        consumer.task_buckets, consumer.pool = defaultdict(lambda: None), MagicMock()
        consumer.timer, consumer.qos, consumer.controller = MagicMock(), MagicMock(), MagicMock()
        consumer.controller.state.revoked = set()
        consumer._maximum_prefetch_restored, consumer.restart_count = True, 0
        consumer.on_task_message, consumer.call_soon_ack = set(), lambda ack, *args: ack(*args)
        consumer.on_task_request = self._execute
        consumer.strategies = {name: task.start_strategy(app, consumer) for name, task in app.tasks.items()}
        return consumer

    def _execute(self, request: Any) -> None:
        """What a child of the pool does with it."""
        failed, answer, _ = trace_task_ret(
            request.type, request.task_id, request.request_dict, request.body, request.content_type,
            request.content_encoding, app=app,
        )  # fmt: skip
        raised = getattr(answer, "exception", None)
        if failed and not isinstance(getattr(raised, "exc", raised), Ignore):
            self.failed.append(answer)
        request.acknowledge()

    def claim(self, *_: Any) -> Any:
        self.claims += 1
        return tasks.Refusal("unknown run")

    def runtime(self) -> Any:
        held = SimpleNamespace(
            ledger=SimpleNamespace(claim=self.claim, count_rejected=self.refused), owner="w:1"
        )
        return SimpleNamespace(**vars(held), run=lambda _: self.claim() and None, publish=lambda *_: None)

    def take(self, raw: bytes) -> None:
        """One entry of the queue."""
        self.channel.client.parse_response.return_value = (QUEUE.encode(), raw)
        self.channel._brpop_read()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with pytest.MonkeyPatch.context() as patch:
        worker = Worker()
        patch.setattr(tasks, "runtime", worker.runtime)
        yield worker
    count_with(lambda _: None)


# -- what is on the wire -------------------------------------------------------------------------------

TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", RUN, "../../etc/passwd", "@plan", "@session", "model.a.b", "model.a/../b", "relay.node", "celery.chord",
         "relay.plan", "\x00", "\ud800", "x" * 5000, "utf-8", "base64", "pickle", "application/json", "zlib", "1e999"]
    ),
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), st.integers(), st.floats(allow_nan=True), TEXT
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
HEADERS = {
    "lang": "py", "task": "relay.node", "id": "1", "root_id": "1", "parent_id": None, "group": None, "retries": 0,
    "eta": None, "expires": None, "timelimit": [None, None], "shadow": None, "argsrepr": "()", "kwargsrepr": "{}",
    "origin": "1@host", "ignore_result": True, "stamped_headers": None, "stamps": {}, "meth": "x",
}  # fmt: skip
PROPERTIES = {
    "correlation_id": "1", "delivery_mode": 2, "delivery_tag": "tag", "body_encoding": "base64",
    "delivery_info": {"exchange": "", "routing_key": QUEUE}, "priority": 0, "reply_to": "x",
}  # fmt: skip
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
ENVELOPE = {"content-encoding": "utf-8", "content-type": "application/json"}


def bent(good: dict[str, Any], most: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    """A good mapping with some fields replaced, removed or added."""
    names = st.one_of(st.sampled_from(sorted(good)), TEXT)
    changes = st.dictionaries(names, ANYTHING, max_size=most)
    gone = st.sets(st.sampled_from(sorted(good)), max_size=1)
    return st.builds(
        lambda c, g: {name: value for name, value in {**good, **c}.items() if name not in g}, changes, gone
    )


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    """Bytes of a queue entry: from noise to a message that is wrong in one place."""
    kind = draw(st.sampled_from(["noise", "json", "body", "message", "message", "message", "message"]))
    if kind == "noise":
        return draw(st.binary(max_size=60))
    if kind == "json":
        return json.dumps(draw(ANYTHING)).encode()
    if kind == "body":
        body = draw(st.one_of(st.binary(max_size=60), ANYTHING.map(lambda each: json.dumps(each).encode())))
    else:
        args = draw(st.one_of(
            st.lists(ANYTHING, max_size=4), st.tuples(st.just(RUN), TEXT).map(list),
            st.just([RUN, "@plan"]), ANYTHING,
        ))  # fmt: skip
        kwargs = draw(st.one_of(st.just({}), ANYTHING))
        body = json.dumps([args, kwargs, draw(st.one_of(st.just(EMBED), bent(EMBED), ANYTHING))]).encode()
    exact = kind == "body"
    message = {
        **draw(st.just(ENVELOPE) if exact else st.one_of(st.just(ENVELOPE), bent(ENVELOPE, 1))),
        "body": base64.b64encode(body).decode(),
        "headers": HEADERS if exact else draw(st.one_of(st.just(HEADERS), bent(HEADERS))),
        "properties": PROPERTIES if exact else draw(st.one_of(st.just(PROPERTIES), bent(PROPERTIES, 1))),
    }
    return json.dumps(message).encode()


def entry(args: Any, headers: dict[str, Any] = HEADERS, embed: Any = None, **properties: Any) -> bytes:
    body = base64.b64encode(json.dumps([args, {}, embed or EMBED]).encode()).decode()
    return json.dumps(
        {**ENVELOPE, "body": body, "headers": headers, "properties": {**PROPERTIES, **properties}}
    ).encode()


POOL: list[Any] = [
    None, True, False, 0, -1, 2**70, 1e308, float("nan"), "", [], {}, [[]], {"a": {}}, [None] * 3, RUN, "@plan",
    "@session", "../../etc/passwd", "model.a/../b", "model.a.b", "relay.node", "celery.chord", "\x00", "\ud800",
    "x" * 5000, "utf-8", "base64", "gzip", "application/x-python-serialize", "2026-01-01T00:00:00", {"task": "relay.plan"},
]  # fmt: skip


def mutants(raw: bytes, chance: random.Random) -> Iterator[bytes]:
    """`raw`, and what it becomes with bytes or values replaced, in the envelope or in the body."""
    yield raw
    for _ in range(FAMILY - 1):
        with contextlib.suppress(ValueError, RecursionError):
            message = json.loads(raw)
            if isinstance(message, dict) and chance.random() < 0.9:
                if isinstance(message.get("body"), str) and chance.random() < 0.5:
                    body = base64.b64decode(message["body"])
                    with contextlib.suppress(ValueError, RecursionError):
                        body = json.dumps(replaced(json.loads(body), chance)).encode()
                    body = body if chance.random() < 0.8 else torn(body, chance)
                    message["body"] = base64.b64encode(body).decode()
                else:
                    message = replaced(message, chance)
                yield json.dumps(message).encode()
                continue
        yield torn(raw, chance)


def replaced(value: Any, chance: random.Random) -> Any:
    """`value` with something in it replaced."""
    inner = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    if not inner or chance.random() < 0.1:
        return chance.choice(POOL)
    key, below = chance.choice(inner)
    value[key] = replaced(below, chance)
    return value


def torn(raw: bytes, chance: random.Random) -> bytes:
    """`raw` cut, or with a few bytes of noise in it."""
    place, width = chance.randrange(len(raw) + 1), chance.randrange(4)
    return (
        raw[:place] if chance.random() < 0.2 else raw[:place] + chance.randbytes(width) + raw[place + width :]
    )


FOUND = {
    "lists without an end": b"[" * 200_000,
    "a delivery tag that Redis does not take": entry([RUN, "@plan"], delivery_tag={"a": 1}),
    "a delivery to nowhere": entry([RUN, "@plan"], delivery_info=[]),
    "Celery's own task": entry([RUN, "@plan"], {**HEADERS, "task": "celery.map"}),
    "an unknown task": entry([RUN, "@plan"], {**HEADERS, "task": "relay.format_the_disk"}),
    "an eta that is no time": entry([RUN, "@plan"], {**HEADERS, "eta": "tomorrow"}),
    "too many arguments": entry([RUN, "@plan", 1, "more"]),
    "a chain of messages": entry([RUN, "@plan"], embed={**EMBED, "chain": [{"task": "relay.node"}]}),
    "a path": entry([RUN, "model.a/../../b"]),
}
"""What once ended a worker, or went by uncounted."""


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found_is_refused_and_counted(worker: Worker, case: str) -> None:
    claims = worker.claims
    check(worker, FOUND[case])
    assert worker.claims == claims


@pytest.mark.timeout(0)
@fuzzed
@given(raw=entries(), seed=st.integers(0, 2**32))
def test_a_fuzzed_entry_is_refused_and_counted_or_changes_nothing(
    worker: Worker, raw: bytes, seed: int
) -> None:
    for each in mutants(raw, random.Random(seed)):
        check(worker, each)


def check(worker: Worker, raw: bytes) -> None:
    refused, claims = len(worker.reasons), worker.claims
    worker.take(raw)
    assert not worker.failed, worker.failed.pop()
    assert (len(worker.reasons) > refused) != (worker.claims > claims), raw
    assert all(reason.startswith(("not a", "unknown task")) for reason in worker.reasons[refused:])
    assert not worker.redis.keys("*"), "an entry stays unacknowledged"


def test_a_good_entry_comes_through(worker: Worker) -> None:
    refused, claims = len(worker.reasons), worker.claims
    worker.take(entry([RUN, "model.shop.orders"]))
    assert (len(worker.reasons) - refused, worker.claims - claims) == (0, 1)


REQUEST = json.loads(
    encode_request(
        RunRequest(run_id=RUN, args=("run",), cwd="/c", project_dir="/c/dbt", env={"A": "x"}, command="run")
    )
)
REQUESTS = st.one_of(
    st.binary(max_size=60), ANYTHING.map(lambda each: json.dumps(each).encode()),
    bent({**REQUEST, "version": 1, "env_file": None, "retry": {}, "priority": 0})
    .map(lambda each: json.dumps(each).encode()),
)  # fmt: skip


@pytest.mark.timeout(0)
@fuzzed
@given(raw=REQUESTS, seed=st.integers(0, 2**32))
@example(raw=b"[" * 200_000, seed=0)
@example(raw=b'{"version":' + b"9" * 5000 + b"}", seed=0)
def test_a_fuzzed_request_is_refused_or_valid(raw: bytes, seed: int) -> None:
    for each in mutants(raw, random.Random(seed)):
        check_request(each)


def check_request(raw: bytes) -> None:
    try:
        request = decode_request(raw)
    except InvalidMessageError as error:
        assert str(error), "no reason"  # noqa: PT017 - what is valid goes on below
        return
    assert decode_request(encode_request(request)) == request
    assert request.version == 1
    assert msgspec.convert(msgspec.to_builtins(request), RunRequest) == request
