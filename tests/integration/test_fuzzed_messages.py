"""Fuzzed messages through all that a worker puts between its queue and the ledger: nothing gets past it.

In this process, without a broker: the bytes of a queue entry go through kombu's channel, Celery's consumer and
request, the tracer and the task, up to the ledger. Each entry must be refused with a reason and counted, or
claim a step of a run that does not exist; nothing may be raised, since that would end a worker.

Hypothesis makes entries that are wrong in some places; each has a family of mutants, which cost a tenth of it.
``RELAY_FUZZ_EXAMPLES`` sets how many payloads in all (`make fuzz`: 100000).
"""

from __future__ import annotations

import contextlib
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

from tests.support.fuzzing import EMBED, FAMILY, HEADERS, REQUESTS, RUN, entries, entry, mutants
from workers import tasks
from workers.app import app
from workers.contract.errors import InvalidMessageError
from workers.contract.keys import QUEUE, Keys
from workers.contract.messages import RunRequest, decode_request, encode_request
from workers.ledger.ledger import Ledger
from workers.ledger.records import Refusal
from workers.runs import step
from workers.supervision.message_guard import GuardedChannel, GuardedConsumer, count_with

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
        self.counts = Ledger(fakeredis.FakeRedis(), keys=Keys("fuzz"))
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
        self.counts.count_rejected(reason)

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
        consumer.timer.call_at = lambda _, call, args, priority: call(*args)
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
        return Refusal("unknown run")

    def runtime(self) -> Any:
        held = SimpleNamespace(
            ledger=SimpleNamespace(claim=self.claim, count_rejected=self.refused), owner="w:1"
        )
        return SimpleNamespace(**vars(held), run=lambda _: self.claim() and None, send=lambda *_: None)

    def take(self, raw: bytes) -> None:
        """One entry of the queue."""
        self.channel.client.parse_response.return_value = (QUEUE.encode(), raw)
        self.channel._brpop_read()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with pytest.MonkeyPatch.context() as patch:
        worker = Worker()
        for module in (tasks, step):
            patch.setattr(module, "process_runtime", worker.runtime)
        yield worker
    count_with(lambda _: None)


FOUND = {
    "lists without an end": b"[" * 200_000,
    "a delivery tag that Redis does not take": entry([RUN, "@plan"], delivery_tag={"a": 1}),
    "a delivery to nowhere": entry([RUN, "@plan"], delivery_info=[]),
    "Celery's own task": entry([RUN, "@plan"], {**HEADERS, "task": "celery.map"}),
    "an unknown task": entry([RUN, "@plan"], {**HEADERS, "task": "relay.format_the_disk"}),
    "an eta that is no time": entry([RUN, "@plan"], {**HEADERS, "eta": "tomorrow"}),
    "too many arguments": entry([RUN, "@plan", 1, "more"]),
    "a chain of messages": entry([RUN, "@plan"], embed={**EMBED, "chain": [{"task": "relay.node"}]}),
    "a content type that is no text": entry([RUN, "@plan"]).replace(b"application/json", b"\\ud800"),
    "one that has expired": entry([RUN, "@plan"], {**HEADERS, "expires": "2026-01-01T00:00:00"}),
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
    assert worker.channel.qos._delivered.keys() <= worker.channel.qos._dirty, "an entry keeps its place"


def test_a_good_entry_comes_through(worker: Worker) -> None:
    refused, claims = len(worker.reasons), worker.claims
    worker.take(entry([RUN, "model.shop.orders"]))
    assert (len(worker.reasons) - refused, worker.claims - claims) == (0, 1)


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
