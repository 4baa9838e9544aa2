"""What a worker takes from its queue: garbage is refused with a reason, and the worker goes on.

Celery refuses a task that it does not know and a body that it cannot decode; a body that decodes to
something else than a task, or a queue entry that is no message at all, ends its consumer
(celery.worker.request.Request, kombu.transport.redis.Channel._brpop_read) and with it the worker.
"""

from __future__ import annotations

import inspect
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import redis
from celery.app.amqp import AMQP
from celery.worker.consumer import Consumer
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.contract.connection import detecting_refused_writes
from workers.contract.credentials import mask_url
from workers.contract.log import log


class _Headers(msgspec.Struct):
    """Headers of a task that Celery acts on (docs.celeryq.dev, "Message protocol", version 2). None of ours
    expires: Celery would drop it without a word."""

    task: str
    id: str
    retries: int | None = 0
    eta: str | None = None
    expires: None = None
    timelimit: tuple[float | None, float | None] | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None


class _Embed(msgspec.Struct, forbid_unknown_fields=True):
    """Messages that a task would send when it has ended: none of ours has any."""

    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


class _Body(msgspec.Struct, array_like=True):
    args: list[Any]
    kwargs: dict[str, Any]
    embed: _Embed | None


_counters: list[Callable[[str], None]] = []


def count_with(counter: Callable[[str], None]) -> None:
    """Tell `counter` each reason for which something was refused."""
    _counters[:] = [counter]


def refuse(reason: str) -> None:
    """Log and count something that was on the queue."""
    log("message refused", reason=reason, phase="intake")
    for counter in _counters:
        counter(reason)


def problem_with(headers: Any, payload: Any) -> str | None:
    """Why a decoded message is no task that Celery could handle, or None."""
    try:
        msgspec.convert(headers, _Headers)
        msgspec.convert(payload, _Body)
    except msgspec.ValidationError as error:
        return f"not a task message: {error}"
    return None


EVENTS_SECONDS = 0.05
"""For how long events for Flower are gathered, at most; two dozen of them go at once."""


class GuardedConsumer(Consumer):  # type: ignore[misc]
    """Celery's, but for messages that it would not survive, and events that it would send one by one."""

    _flush_at = 0.0

    def on_send_event_buffered(self) -> None:
        """Celery's sends events at each turn of its loop: two or three times a task, which is more than a third of
        what this process does for one. They carry the time of what they tell."""
        now = time.monotonic()
        if self.hub and now >= self._flush_at:
            self._flush_at = now + EVENTS_SECONDS
            self.hub.call_later(EVENTS_SECONDS, self._flush_events)

    def shutdown(self) -> None:
        """Celery's, after what was gathered."""
        self._flush_events()
        super().shutdown()

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        """Celery's handler behind a check."""
        handle: Callable[[Any], Any] = super().create_task_handler(*args, **options)

        def check(message: Any) -> None:
            try:
                reason = self._problem_with(message)
                if reason is None:
                    handle(message)
            except (OSError, redis.RedisError, OperationalError):  # the broker's, not the message's
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the message's fault
                reason = f"not a task message: {type(error).__name__}: {error}"
            if reason is not None:
                if (
                    not message.acknowledged
                ):  # first: what is not acknowledged keeps its place in the prefetch
                    message.ack()
                refuse(reason)

        return check

    def _problem_with(self, message: Any) -> str | None:
        reason = problem_with(message.headers, message.payload)
        task = None if reason else self.app.tasks.get(message.headers["task"])
        if task is None:  # Celery's own words for a task that nobody knows
            return reason
        if task.name.startswith("celery."):  # the canvas' own, which run whatever tasks they are given
            return f"unknown task {task.name!r}: Celery's own are not for this queue"
        args, kwargs, _ = message.payload
        try:
            inspect.signature(task.run).bind(*args, **kwargs)
        except TypeError as error:
            return f"not a valid task message: {task.name}: {error}"
        return None

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Celery's, and counted."""
        refuse(f"unknown task {str(message.headers['task'])[:100]!r}")
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Celery's, and counted."""
        refuse(f"not a valid task message: {exc}")
        super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Celery's, and counted."""
        refuse(f"not a task message: {type(exc).__name__}: {exc}")
        super().on_decode_error(message, exc)


_NO_MESSAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError, redis.DataError)
"""What kombu raises for an entry that it cannot take apart, or whose delivery tag Redis does not take."""


_NEVER_AGAIN = Retry(NoBackoff(), 0)


class CompressedMessageError(ValueError):
    """A message says that its body is compressed. None of ours is, and a few kilobytes may unpack to gigabytes."""


_COMPRESSED = "its body is compressed, which no message of dbt-relay is"


class PlainMessage(virtual.Message):
    """kombu's message, which is never decompressed: kombu does it when it makes the object, without a limit."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        headers = payload.get("headers") if isinstance(payload, dict) else None
        if isinstance(headers, dict) and headers.get("compression"):
            try:
                raise CompressedMessageError(_COMPRESSED)  # noqa: TRY301 - for its traceback
            except CompressedMessageError:
                self.errors = [sys.exc_info()]  # as kombu notes them; it leaves the body as it is then
        super().__init__(payload, channel=channel, **options)  # type: ignore[no-untyped-call]


class GuardedChannel(kombu_redis.Channel):
    """kombu's, but for queue entries that are no messages. They are gone with the read. A server that refuses
    every write is away."""

    Message = PlainMessage
    _sender: Any = None

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        return {**params, "connection_class": detecting_refused_writes(params["connection_class"])}

    def _create_client(self, asynchronous: bool = False) -> Any:
        # kombu makes one for each command that it sends; they differ in nothing
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        if self._sender is None or self._sender.connection_pool is not self.pool:
            self._sender = super()._create_client()  # type: ignore[no-untyped-call]
        return self._sender

    def _receive_one(self, client: Any) -> Any:
        # After a reset redis-py would connect anew and wait there, without a limit, for what remote control says
        # next (redis.client.PubSub._execute): the worker's event loop with it, which takes no message meanwhile.
        # With the error, kombu and Celery connect again.
        client.connection.retry = _NEVER_AGAIN
        try:
            return super()._receive_one(client)  # type: ignore[no-untyped-call]
        except (
            _NO_MESSAGE
        ) as error:  # published to remote control; Celery would take it for a lost connection
            refuse(f"not a message: {type(error).__name__}: {error}")
            return None

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except _NO_MESSAGE as error:
            refuse(f"not a message: {type(error).__name__}: {error}")
            return True
        except redis.OutOfMemoryError:  # kombu notes what it took: the reaper sends the message again
            log("Redis is full, a message was left to the reaper", level=logging.WARNING, phase="intake")
            return True


class GuardedTransport(kombu_redis.Transport):
    """kombu's Redis transport with `GuardedChannel`."""

    Channel = GuardedChannel


class PasswordMaskingConnection(Connection):
    """kombu's, whose host of a unix socket is the whole address, its password included; workers tell it
    to whoever asks for their statistics (Flower does)."""

    def info(self) -> Any:
        """What may be told of the connection."""
        told: Any = super().info()  # type: ignore[no-untyped-call]
        told["hostname"] = mask_url(str(told.get("hostname") or ""))
        return told


class PasswordMaskingAMQP(AMQP):  # type: ignore[misc]
    """Celery's, with `PasswordMaskingConnection`."""

    Connection = PasswordMaskingConnection
