"""Whose table judges a command line: the packaged one first, then those that the workers published.

A command line that the packaged table takes is submitted without another look: the worker's dbt has the last word.
Only where it refuses are the workers asked, so that the usual way needs no further round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from producer.dbt_cli.options import Table, packaged
from workers.contract.errors import DbtUsageError

if TYPE_CHECKING:
    from producer.client import RelayClient

Answer = TypeVar("Answer")

OF_THE_TABLE = frozenset(
    {"unknown_option", "unknown_command", "missing_argument", "extra_argument", "missing_value",
     "option_without_value", "invalid_choice", "invalid_integer", "invalid_boolean", "invalid_date"}
)  # fmt: skip
"""Refusals that another release of dbt may not share."""

ASKING_SECONDS = 3.0


def judged(read: Callable[[Table], Answer], environ: Mapping[str, str]) -> Answer:
    """What `read` makes of a command line.

    It is given the packaged table, then the table of each release of dbt that workers have. Where all refuse, the
    refusal stands if the tables have all that those releases take; else the words are passed on.

    Args:
        read: reads the command line by a table; raises DbtUsageError where the table refuses it.
        environ: says which broker the workers are on.

    Raises:
        DbtUsageError: dbt would refuse it.
    """
    try:
        return read(packaged())
    except DbtUsageError as error:
        if error.info is None or error.info.code not in OF_THE_TABLE:
            raise
        refusal = error
    releases, tables = _workers(environ)
    for table in tables.values():
        try:
            return read(table)
        except DbtUsageError as error:  # noqa: PERF203 - a table or two
            refusal = error
    if releases and all(release in tables or packaged().covers(release) for release in releases):
        raise refusal
    return read(next(iter(tables.values()), packaged()).as_lenient())


def installations(environ: Mapping[str, str]) -> list[str]:
    """Which dbt each worker has, a line each; where no worker can be asked, the dbt that one started here would have."""
    from workers.contract.errors import BrokerUnavailableError

    url = _broker(environ)
    if url is None:
        return [f"without a broker: workers of this environment, dbt-core {each}" for each in _own_release()]
    try:
        workers = _client(url, environ).workers()
    except BrokerUnavailableError as error:
        return [str(error)]
    return [f"worker {each.place}: {each.installed}" for each in workers] or ["no worker is connected"]


def _workers(environ: Mapping[str, str]) -> tuple[list[str], dict[str, Table]]:
    """Releases of dbt that workers of the queue have, and the tables that they published."""
    url = _broker(environ)
    return (_own_release(), {}) if url is None else _published(url, environ)


def _broker(environ: Mapping[str, str]) -> str | None:
    """Where commands go, if there is something already."""
    from producer.embedded import stack as embedded

    url = embedded.configured_broker(environ)
    if url:
        return url
    warm = embedded.find_running(environ)
    return None if warm is None else warm.broker_url


def _client(url: str, environ: Mapping[str, str]) -> RelayClient:
    from producer.client import RelayClient
    from workers.contract.settings import read_settings

    settings = read_settings(environ)
    return RelayClient(
        url, namespace=settings.namespace, queue=settings.queue, patience=0, timeout=ASKING_SECONDS
    )


def _own_release() -> list[str]:
    """The release that a stack of this command's own would have: its workers run in this environment."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return [version("dbt-core")]
    except PackageNotFoundError:
        return []


def _published(url: str, environ: Mapping[str, str]) -> tuple[list[str], dict[str, Table]]:
    from workers.contract.errors import BrokerUnavailableError

    client = _client(url, environ)
    try:
        workers = [worker for worker in client.workers() if worker.queue == client.queue]
        releases = sorted({worker.dbt for worker in workers}, reverse=True)
        return releases, _tables(client, [release for release in releases if release])
    except BrokerUnavailableError:
        return [
            packaged().dbt_versions()[-1]
        ], {}  # nothing can be submitted: the packaged table's word stands


def _tables(client: RelayClient, releases: list[str]) -> dict[str, Table]:
    found = ((release, client.command_line(release)) for release in releases)
    return {release: Table(described) for release, described in found if described is not None}
