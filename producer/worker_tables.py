"""The releases of dbt that workers have, and the tables of options that they published in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from producer.dbt_cli.options import Table, packaged
from producer.dbt_cli.tables import WorkerTables

if TYPE_CHECKING:  # a command line that the packaged table accepts needs no client: it starts without it
    from producer.client import RelayClient

ASKING_SECONDS = 3.0


def worker_tables(environ: Mapping[str, str]) -> WorkerTables:
    """Read the workers' tables from the broker that `environ` names, or from the warm stack.

    Without a broker, a private stack would execute the command: its workers have this environment's dbt.
    """
    from producer.stacks import running_broker
    from workers.contract.errors import BrokerUnavailableError

    url = running_broker(environ)
    if url is None:
        return WorkerTables(_installed_release(), {})
    client = _client(url, environ)
    try:
        workers = [worker for worker in client.workers() if worker.queue == client.queue]
        releases = sorted({worker.dbt for worker in workers}, reverse=True)
        found = {release: client.command_line(release) for release in releases if release}
    except BrokerUnavailableError:  # nothing can be submitted either: the packaged table decides
        return WorkerTables([packaged().dbt_versions()[-1]], {})
    return WorkerTables(
        releases, {release: Table(table) for release, table in found.items() if table is not None}
    )


def installations(environ: Mapping[str, str]) -> list[str]:
    """Describe the dbt of each worker, one line each; without a broker, the dbt of this environment."""
    from producer.stacks import running_broker
    from workers.contract.errors import BrokerUnavailableError

    url = running_broker(environ)
    if url is None:
        return [
            f"without a broker: workers of this environment, dbt-core {each}" for each in _installed_release()
        ]
    try:
        workers = _client(url, environ).workers()
    except BrokerUnavailableError as error:
        return [str(error)]
    return [f"worker {each.place}: {each.installed}" for each in workers] or ["no worker is connected"]


def _client(url: str, environ: Mapping[str, str]) -> RelayClient:
    from producer.client import RelayClient
    from workers.contract.settings import read_settings

    settings = read_settings(environ)
    return RelayClient(
        url, namespace=settings.namespace, queue=settings.queue, patience=0, timeout=ASKING_SECONDS
    )


def _installed_release() -> list[str]:
    """The release of dbt-core in this environment; empty where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return [version("dbt-core")]
    except PackageNotFoundError:
        return []
