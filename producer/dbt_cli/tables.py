"""Chooses the table of options by which a command line is read: the packaged one, or one that workers published.

A command line that the packaged table accepts is submitted without asking Redis; the worker's dbt decides. Only
where the packaged table refuses it are the workers' tables read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from producer.dbt_cli.options import Table, packaged
from workers.contract.errors import DbtUsageError

Answer = TypeVar("Answer")

OF_THE_TABLE = frozenset(
    {"unknown_option", "unknown_command", "missing_argument", "extra_argument", "missing_value",
     "option_without_value", "invalid_choice", "invalid_integer", "invalid_boolean", "invalid_date"}
)  # fmt: skip
"""Error codes that another release of dbt may not share."""


@dataclass(frozen=True)
class WorkerTables:
    """What is known of the workers' dbt.

    Attributes:
        releases: of dbt-core, the newest first; empty for a worker that does not publish its release.
        tables: published tables by release.
    """

    releases: Sequence[str]
    tables: Mapping[str, Table]


def read_with_tables(read: Callable[[Table], Answer], worker_tables: Callable[[], WorkerTables]) -> Answer:
    """Read a command line by the packaged table, else by the table of each release that workers have.

    Where all tables refuse it, the refusal stands if the tables cover every worker's release. Otherwise the command
    line is read leniently, and the worker's dbt decides.

    Args:
        read: reads the command line by a table; raises DbtUsageError where the table refuses it.
        worker_tables: returns the workers' tables; called only where the packaged table refuses.

    Raises:
        DbtUsageError: dbt would refuse the command line.
    """
    try:
        return read(packaged())
    except DbtUsageError as error:
        if error.info is None or error.info.code not in OF_THE_TABLE:
            raise
        refusal = error
    known = worker_tables()
    for table in known.tables.values():
        try:
            return read(table)
        except DbtUsageError as error:  # noqa: PERF203 - a table or two
            refusal = error
    if known.releases and all(
        release in known.tables or packaged().covers(release) for release in known.releases
    ):
        raise refusal
    return read(next(iter(known.tables.values()), packaged()).as_lenient())
