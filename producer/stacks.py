"""Where commands go: a configured broker, the warm stack of ``dbt-relay up``, or a private stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from producer.broker import configured_broker
from producer.embedded import stack as embedded


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """A broker with its workers.

    Attributes:
        runtime_dir: private folder of an embedded stack; None for a configured broker.
        check: of a private stack: raises RelayError when the stack has failed. None for other stacks.
    """

    broker_url: str
    runtime_dir: Path | None = None
    check: Callable[[], None] | None = None


def running_broker(environ: Mapping[str, str]) -> str | None:
    """Return the URL of the configured broker, else of the warm stack; None when there is neither."""
    url = configured_broker(environ)
    if url:
        return url
    warm = embedded.find_running(environ)
    return None if warm is None else warm.broker_url


def find_stack(environ: Mapping[str, str], *, workers: int | None = None) -> Stack:
    """Return the configured broker, else the warm stack, else start a private stack for this process.

    Args:
        workers: number of worker processes of a private stack.

    Raises:
        RelayError: no server was found or could be started.
    """
    url = configured_broker(environ)
    if url:
        return Stack(broker_url=url)
    warm = embedded.find_running(environ)
    if warm is not None:
        return Stack(broker_url=warm.broker_url, runtime_dir=warm.runtime_dir)
    own = embedded.shared_stack(workers)
    info = own.start()
    return Stack(broker_url=info.broker_url, runtime_dir=info.runtime_dir, check=own.check)
