"""Draining workers: sends them Celery's ``drain`` control command, and watches their progress in Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from producer.client.broker_errors import BrokerErrors
from producer.client.relay_client import RelayClient
from producer.client.summaries import WorkerInfo
from producer.usage_errors import did_you_mean, usage_error
from workers.contract.keys import CONTROL_DRAIN
from workers.contract.redis_values import text_of, value_of
from workers.contract.run_store import answer_of
from workers.contract.settings import celery_url, tls_options

DRAINED, LOST, SILENT = "drained", "lost", "silent"
_ANSWER_SECONDS = 5.0
_LOST_SECONDS = 30.0


class DrainProgress(msgspec.Struct, frozen=True):
    """A worker at one moment of its drain.

    Attributes:
        state: ``drained``; ``lost`` (it ended without removing its registration); ``silent`` (it did not answer);
            or empty while it drains.
        executing: ``node of run`` for each step that it executes.
    """

    worker: WorkerInfo
    state: str = ""
    executing: tuple[str, ...] = ()


def choose(workers: Sequence[WorkerInfo], names: Sequence[str], *, every: bool) -> list[WorkerInfo]:
    """Select workers by name.

    Args:
        names: Celery's names of workers, or ``host:pid`` as ``dbt-relay status`` prints it.
        every: select all, and name none.

    Raises:
        DbtUsageError: there is no name, or no worker of that name; the text has the nearest names.
    """
    known = ", ".join(sorted(worker.name for worker in workers)) or "none"
    if every == bool(names):
        raise usage_error(
            "no_worker_named", "Name the workers to drain, or give --all.", f"Connected workers: {known}."
        )
    if every:
        return list(workers)
    found = []
    for name in names:
        same = [worker for worker in workers if name in (worker.name, f"{worker.host}:{worker.pid}")]
        if not same:
            hint = did_you_mean(name, [worker.name for worker in workers])
            raise usage_error(
                "no_such_worker", f"There is no worker {name!r}.{hint}", f"Connected workers: {known}."
            )
        found += [worker for worker in same if worker not in found]
    return found


def drain(
    client: RelayClient,
    workers: Sequence[WorkerInfo],
    *,
    grace: float | None = None,
    timeout: float | None = None,
) -> Iterator[list[DrainProgress]]:
    """Ask workers to stop, and watch them until all have stopped.

    Args:
        grace: seconds for which they continue their current steps; None: their own setting.
        timeout: seconds to watch; the workers continue to drain afterwards.

    Yields:
        the progress of each worker, twice a second and at the end.

    Raises:
        BrokerUnavailableError: Redis cannot be reached.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with BrokerErrors(client.broker_url):
        answered = _send(client, [worker.name for worker in workers if not worker.draining], grace)
        while True:
            executing = _executing(client)
            progress = [_progress(client, worker, answered, executing) for worker in workers]
            yield progress
            if all(each.state for each in progress) or (deadline is not None and time.monotonic() > deadline):
                return
            time.sleep(0.5)


def _send(client: RelayClient, names: list[str], grace: float | None) -> set[str]:
    """Send the control command. Returns the names of the workers that answered."""
    if not names:
        return set()
    from kombu.connection import Connection
    from kombu.pidbox import Mailbox

    url = client.broker_url
    with Connection(celery_url(url), ssl=tls_options(url) or False) as connection:  # type: ignore[no-untyped-call]
        # the options of celery.app.control.Control
        mailbox: Any = Mailbox("celery", type="fanout", accept=["json"], serializer="json")  # type: ignore[no-untyped-call]
        arguments = {} if grace is None else {"grace": grace}
        replies = mailbox(connection).call(names, CONTROL_DRAIN, arguments, timeout=_ANSWER_SECONDS)
    return {name for reply in replies or () for name, answer in reply.items() if "ok" in answer}


def _progress(
    client: RelayClient, worker: WorkerInfo, answered: set[str], executing: dict[str, list[str]]
) -> DrainProgress:
    raw: Any = client.store.client.hget(client.store.keys.workers(), f"{worker.host}:{worker.pid}")
    if raw is None:
        return DrainProgress(worker, DRAINED)
    now = value_of(raw, WorkerInfo) or worker
    steps = tuple(step for pid in now.children for step in executing.get(f"{now.host}:{pid}", ()))
    if client.store.server_time() - now.seen > _LOST_SECONDS:
        return DrainProgress(worker, LOST, steps)
    return DrainProgress(worker, "" if worker.name in answered or now.draining else SILENT, steps)


def _executing(client: RelayClient) -> dict[str, list[str]]:
    """List the claimed steps by ``host:pid`` of the process that claimed them."""
    store = client.store
    found: dict[str, list[str]] = {}
    for raw in answer_of(store.client.zrange(store.keys.leases(), 0, -1)):
        run_id, _, step = text_of(raw).partition(" ")
        data = answer_of(store.client.hget(store.keys.steps(run_id), step))
        known = None if data is None else value_of(data, dict[str, Any])
        if known is not None and step != "@session":
            found.setdefault(str(known.get("owner")), []).append(f"{step} of {run_id}")
    return found
