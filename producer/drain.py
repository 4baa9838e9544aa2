"""Draining workers: telling them by name, and seeing how far they are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from producer.client import RelayClient, WorkerInfo
from producer.connection_errors import reaching
from producer.usage_errors import did_you_mean, usage_error
from workers.contract.keys import CONTROL_DRAIN
from workers.contract.redis_values import text_of, value_of
from workers.contract.run_store import answer_of
from workers.contract.settings import celery_url, tls_options

DRAINED, LOST, SILENT = "drained", "lost", "silent"
_ANSWER_SECONDS = 5.0
_LOST_SECONDS = 30.0


class Seen(msgspec.Struct, frozen=True):
    """A worker as it was just now.

    Attributes:
        state: ``drained``, ``lost`` (it ended without a goodbye), ``silent`` (it does not answer), or empty.
        executing: ``node of run`` of each step that it executes.
    """

    worker: WorkerInfo
    state: str = ""
    executing: tuple[str, ...] = ()


def choose(workers: Sequence[WorkerInfo], names: Sequence[str], *, every: bool) -> list[WorkerInfo]:
    """The workers of these names, as Celery or as ``dbt-relay status`` calls them.

    Raises:
        DbtUsageError: no name, or one that no worker has, with the nearest ones.
    """
    known = ", ".join(sorted(worker.name for worker in workers)) or "none"
    if every == bool(names):
        raise usage_error(
            "no_worker_named", "Name the workers to drain, or say --all.", f"Connected workers: {known}."
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
) -> Iterator[list[Seen]]:
    """Tell workers to stop, and look at them until all have.

    Args:
        grace: seconds that they let go on what they execute; None: their own settings.
        timeout: seconds to look on; they go on draining afterwards.

    Yields:
        how each is doing, twice a second and at the end.

    Raises:
        BrokerUnavailableError: Redis cannot be reached.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with reaching(client.broker_url):
        told = _tell(client, [worker.name for worker in workers if not worker.draining], grace)
        while True:
            executing = _executing(client)
            seen = [_look(client, worker, told, executing) for worker in workers]
            yield seen
            if all(each.state for each in seen) or (deadline is not None and time.monotonic() > deadline):
                return
            time.sleep(0.5)


def _tell(client: RelayClient, names: list[str], grace: float | None) -> set[str]:
    """Which of the workers answered."""
    if not names:
        return set()
    from kombu.connection import Connection
    from kombu.pidbox import Mailbox

    url = client.broker_url
    with Connection(celery_url(url), ssl=tls_options(url) or False) as connection:  # type: ignore[no-untyped-call]
        # as celery.app.control.Control has it
        mailbox: Any = Mailbox("celery", type="fanout", accept=["json"], serializer="json")  # type: ignore[no-untyped-call]
        arguments = {} if grace is None else {"grace": grace}
        answers = mailbox(connection).call(names, CONTROL_DRAIN, arguments, timeout=_ANSWER_SECONDS)
    return {name for answer in answers or () for name, said in answer.items() if "ok" in said}


def _look(client: RelayClient, worker: WorkerInfo, told: set[str], executing: dict[str, list[str]]) -> Seen:
    raw: Any = client.store.client.hget(client.store.keys.workers(), f"{worker.host}:{worker.pid}")
    if raw is None:
        return Seen(worker, DRAINED)
    now = value_of(raw, WorkerInfo) or worker  # what it said when it was chosen
    doing = tuple(step for pid in now.children for step in executing.get(f"{now.host}:{pid}", ()))
    if client.store.server_time() - now.seen > _LOST_SECONDS:
        return Seen(worker, LOST, doing)
    return Seen(worker, "" if worker.name in told or now.draining else SILENT, doing)


def _executing(client: RelayClient) -> dict[str, list[str]]:
    """What is claimed now, by ``host:pid`` of the process that claimed it."""
    store = client.store
    found: dict[str, list[str]] = {}
    for raw in answer_of(store.client.zrange(store.keys.leases(), 0, -1)):
        run_id, _, step = text_of(raw).partition(" ")
        data = answer_of(store.client.hget(store.keys.steps(run_id), step))
        known = None if data is None else value_of(data, dict[str, Any])
        if known is not None and step != "@session":
            found.setdefault(str(known.get("owner")), []).append(f"{step} of {run_id}")
    return found
