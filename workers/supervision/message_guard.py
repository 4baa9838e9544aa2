"""Refuses invalid messages on a worker's queue, with a reason, so that they do not stop the worker.

Celery itself refuses unknown tasks and bodies that it cannot decode. A body that is not a task, or a queue entry that is
not a message, stops its consumer (celery.worker.request.Request, kombu.transport.redis.Channel._brpop_read) and so the
worker.
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
    """The headers of a task that Celery uses (docs.celeryq.dev, "Message protocol", version 2). ``expires`` is not
    accepted: Celery drops expired messages silently, and dbt-relay's never expire."""

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
    """Messages that Celery sends when a task has ended. dbt-relay's tasks have none."""

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
    """Set the function that is called with the reason of each refused message."""
    _counters[:] = [counter]


def refuse(reason: str) -> None:
    """Log and count a refused message."""
    log("message refused", reason=reason, phase="intake")
    for counter in _counters:
        counter(reason)


def problem_with(headers: Any, payload: Any) -> str | None:
    """Return why a decoded message is not a task that Celery can handle, or None if it is one."""
    try:
        msgspec.convert(headers, _Headers)
        msgspec.convert(payload, _Body)
    except msgspec.ValidationError as error:
        return f"not a task message: {error}"
    return None


EVENTS_SECONDS = 0.05
"""Seconds for which events for Flower are buffered before they are sent together."""


class GuardedConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, which refuses invalid messages and sends events in batches."""

    _flush_at = 0.0

    def on_send_event_buffered(self) -> None:
        """Send buffered events after `EVENTS_SECONDS`. Celery's consumer sends them in each iteration of its loop: two or
        three times per task, more than a third of this process's work for a task. Events contain their time."""
        now = time.monotonic()
        if self.hub and now >= self._flush_at:
            self._flush_at = now + EVENTS_SECONDS
            self.hub.call_later(EVENTS_SECONDS, self._flush_events)

    def shutdown(self) -> None:
        """Send the buffered events, then shut down as Celery does."""
        self._flush_events()
        super().shutdown()

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        """Return Celery's handler, preceded by a check of the message."""
        handle: Callable[[Any], Any] = super().create_task_handler(*args, **options)

        def check(message: Any) -> None:
            try:
                reason = self._problem_with(message)
                if reason is None:
                    handle(message)
            except (OSError, redis.RedisError, OperationalError):  # errors of the broker
                raise
            except Exception as error:  # noqa: BLE001 - any other error comes from the message
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
        if task is None:  # Celery handles unknown tasks: `on_unknown_task`
            return reason
        if task.name.startswith("celery."):  # tasks of Celery's canvas execute any task in their arguments
            return f"unknown task {task.name!r}: Celery's built-in tasks are not accepted"
        args, kwargs, _ = message.payload
        try:
            inspect.signature(task.run).bind(*args, **kwargs)
        except TypeError as error:
            return f"not a valid task message: {task.name}: {error}"
        return None

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Count the message, then handle it as Celery does."""
        refuse(f"unknown task {str(message.headers['task'])[:100]!r}")
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Count the message, then handle it as Celery does."""
        refuse(f"not a valid task message: {exc}")
        super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Count the message, then handle it as Celery does."""
        refuse(f"not a task message: {type(exc).__name__}: {exc}")
        super().on_decode_error(message, exc)


_NO_MESSAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError, redis.DataError)
"""What kombu raises for an entry that it cannot parse, or whose delivery tag Redis does not accept."""

_NO_RETRY = Retry(NoBackoff(), 0)


class CompressedMessageError(ValueError):
    """The body of a message is compressed. dbt-relay sends none, and a few kilobytes may unpack to gigabytes."""


_COMPRESSED = "its body is compressed, which no message of dbt-relay is"


class PlainMessage(virtual.Message):
    """kombu's message without decompression: kombu's constructor decompresses the body without a size limit."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        headers = payload.get("headers") if isinstance(payload, dict) else None
        if isinstance(headers, dict) and headers.get("compression"):
            try:
                raise CompressedMessageError(_COMPRESSED)  # noqa: TRY301 - for its traceback
            except CompressedMessageError:
                self.errors = [
                    sys.exc_info()
                ]  # kombu's list of errors; if it is not empty, kombu keeps the body as it is
        super().__init__(payload, channel=channel, **options)  # type: ignore[no-untyped-call]


class GuardedChannel(kombu_redis.Channel):
    """kombu's Redis channel, which refuses queue entries that are not messages: they were removed when they were read.

    It treats a server that refuses every write like a server that is down.
    """

    Message = PlainMessage
    _sender: Any = None

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        return {**params, "connection_class": detecting_refused_writes(params["connection_class"])}

    def _create_client(self, asynchronous: bool = False) -> Any:
        # kombu creates a client for each command; one client is enough
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        if self._sender is None or self._sender.connection_pool is not self.pool:
            self._sender = super()._create_client()  # type: ignore[no-untyped-call]
        return self._sender

    def _receive_one(self, client: Any) -> Any:
        # After a connection reset redis-py would reconnect and wait without a limit for the next message of remote
        # control (redis.client.PubSub._execute). That would block the worker's event loop. Without a retry, the error
        # reaches kombu and Celery, which reconnect.
        client.connection.retry = _NO_RETRY
        try:
            return super()._receive_one(client)  # type: ignore[no-untyped-call]
        except (
            _NO_MESSAGE
        ) as error:  # invalid message to remote control, which Celery would take for a lost connection
            refuse(f"not a message: {type(error).__name__}: {error}")
            return None

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except _NO_MESSAGE as error:
            refuse(f"not a message: {type(error).__name__}: {error}")
            return True
        except (
            redis.OutOfMemoryError
        ):  # kombu cannot store the message as unacknowledged; the reaper sends it again
            log("Redis is full, the reaper will send a message again", level=logging.WARNING, phase="intake")
            return True


class GuardedTransport(kombu_redis.Transport):
    """kombu's Redis transport with `GuardedChannel`."""

    Channel = GuardedChannel


class PasswordMaskingConnection(Connection):
    """kombu's connection, which masks the password in its description.

    For a unix socket, kombu's host name is the whole URL with the password. Workers publish it in their statistics,
    which Flower shows.
    """

    def info(self) -> Any:
        """Return kombu's description of the connection, with the password masked."""
        info: Any = super().info()  # type: ignore[no-untyped-call]
        info["hostname"] = mask_url(str(info.get("hostname") or ""))
        return info


class PasswordMaskingAMQP(AMQP):  # type: ignore[misc]
    """Celery's AMQP helper with `PasswordMaskingConnection`."""

    Connection = PasswordMaskingConnection
