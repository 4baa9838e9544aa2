"""Batches of events and the reused client. `tests/integration/test_bad_messages.py` tests the refusal of messages."""

from __future__ import annotations

from typing import Any

import pytest
from kombu import Connection
from kombu.asynchronous import Hub

from workers.supervision import message_guard
from workers.supervision.message_guard import GuardedChannel, GuardedConsumer


class Dispatcher:
    """Counts the calls of an event dispatcher."""

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


def test_events_are_sent_in_batches(consumer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_guard, "EVENTS_SECONDS", 600.0)
    for _ in range(3):
        consumer.on_send_event_buffered()
    [entry] = due(consumer)
    assert consumer.event_dispatcher.flushes == 0
    entry()
    assert consumer.event_dispatcher.flushes == 1


def test_next_batch_is_awaited_after_one_was_sent(consumer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the connection of the event loop that should have sent them was lost."""
    monkeypatch.setattr(message_guard, "EVENTS_SECONDS", 0.0)
    consumer.on_send_event_buffered()
    consumer.on_send_event_buffered()
    assert len(due(consumer)) == 2


def test_buffered_events_are_sent_at_shutdown(consumer: Any) -> None:
    consumer.on_send_event_buffered()
    consumer.shutdown()
    assert consumer.event_dispatcher.flushes == 1


def test_channel_reuses_its_client(redis_server: Any) -> None:
    with Connection(redis_server.broker_url) as connection:
        connection.transport_cls = message_guard.GuardedTransport
        channel: Any = connection.default_channel
        assert isinstance(channel, GuardedChannel)
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is second
            assert first.ping()
            assert first is not channel.client  # the client that waits for messages
        channel._disconnect_pools()
        with channel.conn_or_acquire() as third:
            assert third is not first
            assert third.ping()
