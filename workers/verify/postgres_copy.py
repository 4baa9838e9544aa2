"""Copies a Postgres database: creates two temporary databases from it on the same server."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from workers.contract.credentials import scrub
from workers.contract.errors import DbtUsageError
from workers.verify.warehouses import PostgresDatabase

_MAINTENANCE = ("postgres", "template1")
"""Databases that every server has. Postgres cannot copy a database over a connection to it."""

_LIBPQ_OPTIONS = (
    "host",
    "port",
    "user",
    "password",
    "connect_timeout",
    "sslmode",
    "sslcert",
    "sslkey",
    "sslrootcert",
)
"""Credentials that go to libpq (dbt.adapters.postgres.connections.PostgresConnectionManager.open)."""


class PostgresSource:
    """The database of a rendered Postgres target.

    Args:
        credentials: of the target, as dbt renders them.
    """

    def __init__(self, credentials: Mapping[str, Any]) -> None:
        self.database = str(credentials["database"])
        self._connection_options = {
            name: credentials[name] for name in _LIBPQ_OPTIONS if credentials.get(name) is not None
        }
        self.key = (
            "postgres",
            str(self._connection_options["host"]),
            str(self._connection_options["port"]),
            self.database,
        )
        self.files: list[Path] = []

    def __str__(self) -> str:
        return f"the Postgres database {self.database} on {self._connection_options['host']}:{self._connection_options['port']}"

    @contextlib.contextmanager
    def copies(
        self, folders: Mapping[str, Path]
    ) -> Iterator[dict[str, tuple[PostgresDatabase, dict[str, Any]]]]:
        """Create a copy for each side named in `folders`, and drop it at the end.

        Yields:
            by side: the copy, and the changes of its target in the profile.

        Raises:
            DbtUsageError: the server does not allow it. The text says which right is missing.
        """
        run = secrets.token_hex(4)
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(contextlib.closing(self._maintenance()))
            made = {}
            for name in folders:
                database = f"dbt_relay_verify_{run}_{name}"
                self._create(connection, database)
                stack.callback(_drop, connection, database)
                made[name] = (PostgresDatabase(self._connector(database), database), {"dbname": database})
            yield made

    def _connector(self, database: str) -> Callable[[], Any]:
        def connect() -> Any:
            import psycopg2

            connection = psycopg2.connect(
                **self._connection_options, dbname=database, application_name="dbt-relay verify"
            )
            connection.autocommit = True
            return connection

        return connect

    def _maintenance(self) -> Any:
        import psycopg2

        reason = ""
        password, *shown = (str(self._connection_options.get(name)) for name in ("password", "user", "host"))
        hidden = [] if password in (*shown, self.database) else [password]
        for name in _MAINTENANCE:
            if name != self.database:
                try:
                    return self._connector(name)()
                except psycopg2.OperationalError as error:
                    reason = scrub(str(error).strip(), hidden)
        raise DbtUsageError(
            f"{self} cannot be copied: its server takes no connection to the databases "
            f"{' or '.join(_MAINTENANCE)}, over which a database is copied.\n{reason}"
        )

    def _create(self, connection: Any, database: str) -> None:
        import psycopg2
        from psycopg2 import errors, sql

        create = sql.SQL("create database {} template {}")
        try:
            with connection.cursor() as cursor:
                cursor.execute(create.format(sql.Identifier(database), sql.Identifier(self.database)))
                for grantee, right in _grants(cursor, self.database):
                    grant = sql.SQL("grant {} on database {} to {}")
                    role = sql.Identifier(grantee) if grantee else sql.SQL("public")
                    cursor.execute(grant.format(sql.SQL(right), sql.Identifier(database), role))
        except errors.InsufficientPrivilege as error:
            raise self._not_allowed(connection, str(error).strip()) from error
        except errors.ObjectInUse as error:
            raise DbtUsageError(
                f"{self} cannot be copied while other clients are connected to it{_others(connection, self.database)}.\n"
                "Postgres copies a database only when it has no other connections: end those connections and try again."
            ) from error
        except psycopg2.Error as error:
            raise DbtUsageError(f"{self} cannot be copied: {str(error).strip()}") from error

    def _not_allowed(self, connection: Any, reason: str) -> DbtUsageError:
        with connection.cursor() as cursor:
            cursor.execute("select current_user, rolcreatedb from pg_roles where rolname = current_user")
            user, may_create = cursor.fetchone()
        if not may_create:
            missing = f"the user {user} may not create databases"
            fix = f'alter role "{user}" createdb;'
        else:
            missing = f"the user {user} does not own {self.database}, and only its owner may copy it"
            fix = f'alter database "{self.database}" is_template true;'
        return DbtUsageError(
            f"{self} cannot be copied: {missing} ({reason}).\n"
            f"verify creates two temporary copies and drops them. A superuser can allow it: {fix}"
        )


def _grants(cursor: Any, database: str) -> list[tuple[str, str]]:
    """Rights on a database, which Postgres does not copy: pairs of role (empty for public) and right."""
    cursor.execute(
        "select coalesce(r.rolname, ''), a.privilege_type from pg_database d, aclexplode(d.datacl) a"
        " left join pg_roles r on r.oid = a.grantee where d.datname = %s and a.grantee <> d.datdba",
        (database,),
    )
    return list(cursor.fetchall())


def _others(connection: Any, database: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(
            "select distinct coalesce(nullif(application_name, ''), 'unnamed') || ' of ' || usename"
            " from pg_stat_activity where datname = %s order by 1",
            (database,),
        )
        names = [name for (name,) in cursor.fetchall()]
    return f" ({', '.join(names)})" if names else ""


def _drop(connection: Any, database: str) -> None:
    from psycopg2 import sql

    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(database)))
