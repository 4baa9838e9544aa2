"""What a worker's intake does beside refusing (`tests/integration/test_bad_messages.py` has that)."""

from __future__ import annotations

from typing import Any

import pytest
from kombu import Connection
from kombu.asynchronous import Hub

from workers.supervision import message_guard
from workers.supervision.message_guard import GuardedChannel, GuardedConsumer


class Dispatcher:
    """Counts what an event dispatcher is asked to send."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


@pytest.fixture
def consumer() -> Any:
    consumer = object.__new__(GuardedConsumer)
    consumer.hub, consumer.event_dispatcher = Hub(), Dispatcher()
    consumer.blueprint, consumer._pending_operations = GuardedConsumer.Blueprint(), []
    consumer.steps = []
    return consumer


def due(consumer: Any) -> list[Any]:
    return [each.entry for each in consumer.hub.timer.queue]


def test_events_are_gathered(consumer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_guard, "EVENTS_SECONDS", 600.0)
    for _ in range(3):
        consumer.on_send_event_buffered()
    [entry] = due(consumer)
    assert consumer.event_dispatcher.flushes == 0
    entry()
    assert consumer.event_dispatcher.flushes == 1


def test_after_they_went_out_the_next_ones_are_waited_for(
    consumer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the loop that should have sent them was corrupted down with its connection."""
    monkeypatch.setattr(message_guard, "EVENTS_SECONDS", 0.0)
    consumer.on_send_event_buffered()
    consumer.on_send_event_buffered()
    assert len(due(consumer)) == 2


def test_the_last_ones_go_out_before_the_end(consumer: Any) -> None:
    consumer.on_send_event_buffered()
    consumer.shutdown()
    assert consumer.event_dispatcher.flushes == 1


def test_a_channel_keeps_the_client_that_it_sends_with(redis_server: Any) -> None:
    with Connection(redis_server.broker_url) as connection:
        connection.transport_cls = message_guard.GuardedTransport
        channel: Any = connection.default_channel
        assert isinstance(channel, GuardedChannel)
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is second
            assert first.ping()
            assert first is not channel.client  # which waits for messages
        channel._disconnect_pools()
        with channel.conn_or_acquire() as third:
            assert third is not first
            assert third.ping()
