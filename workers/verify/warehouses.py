"""Reads the content of a warehouse: relations, columns, comments, definitions, rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass
class Relation:
    """A relation, as the warehouse's catalog describes it."""

    kind: str
    columns: list[tuple[Any, ...]] = field(default_factory=list)
    """Name, type, nullable, comment and default of each column, in order."""
    comment: str | None = None
    definition: str | None = None
    extras: list[Any] = field(default_factory=list)
    """Constraints, indexes, grants."""
    rows: list[tuple[Any, ...]] = field(default_factory=list)


class Warehouse(Protocol):
    """One side's warehouse."""

    database: str
    """Name of the database in SQL if it differs between sides, else empty."""

    def relations(self) -> dict[str, Relation]:
        """All relations but system relations, by ``schema.name``."""

    def execute(self, sql: str) -> None:
        """Execute a statement in the warehouse, outside of dbt."""


@dataclass
class DuckDBFile:
    """A DuckDB file and the files attached to it, by name. Each call opens and closes them."""

    path: Path
    database: str = ""
    attached: Mapping[str, Path] = field(default_factory=dict)

    def execute(self, sql: str) -> None:
        """See `Warehouse`."""
        import duckdb

        with contextlib.closing(duckdb.connect(str(self.path))) as connection:
            connection.execute(sql)

    def relations(self) -> dict[str, Relation]:
        """See `Warehouse`. Keys of an attached file begin with its name."""
        if not self.path.exists():
            return {}
        import duckdb

        with contextlib.closing(duckdb.connect(str(self.path), read_only=True)) as connection:
            ((main,),) = connection.execute("select current_database()").fetchall()
            existing = [name for name, path in self.attached.items() if path.exists()]
            for name in existing:
                path = str(self.attached[name]).replace("'", "''")
                connection.execute(f"attach '{path}' as {_quoted(name)} (read_only)")
            found = _read_duckdb(connection, main, "")
            for name in existing:
                found.update(_read_duckdb(connection, name, f"{name}."))
            return found


def _read_duckdb(connection: Any, database: str, prefix: str) -> dict[str, Relation]:
    found: dict[str, Relation] = {}
    named: dict[str, tuple[str, str]] = {}

    def rows(sql: str) -> list[tuple[Any, ...]]:
        return list(connection.execute(sql, {"database": database}).fetchall())

    for schema, name, comment in rows(
        "select schema_name, table_name, comment from duckdb_tables()"
        " where database_name = $database and not internal"
    ):
        named[f"{prefix}{schema}.{name}"] = (schema, name)
        found[f"{prefix}{schema}.{name}"] = Relation(kind="table", comment=comment)
    for schema, name, comment, sql in rows(
        "select schema_name, view_name, comment, sql from duckdb_views()"
        " where database_name = $database and not internal"
    ):
        named[f"{prefix}{schema}.{name}"] = (schema, name)
        found[f"{prefix}{schema}.{name}"] = Relation(kind="view", comment=comment, definition=sql)
    for schema, name, *column in rows(
        "select schema_name, table_name, column_name, data_type, is_nullable, comment, column_default"
        " from duckdb_columns() where database_name = $database and not internal"
        " order by schema_name, table_name, column_index"
    ):
        found[f"{prefix}{schema}.{name}"].columns.append(tuple(column))
    for schema, name, *extra in rows(
        "select schema_name, table_name, constraint_type, constraint_text from duckdb_constraints()"
        " where database_name = $database union all"
        " select schema_name, table_name, 'index', sql from duckdb_indexes()"
        " where database_name = $database order by all"
    ):
        found[f"{prefix}{schema}.{name}"].extras.append(extra)
    for (schema,) in rows(
        "select schema_name from duckdb_schemas() where database_name = $database and not internal"
    ):
        found[f"{prefix}{schema}"] = Relation(kind="schema")
    for key, (schema, name) in named.items():
        found[key].rows = _duckdb_rows(connection, database, schema, name)
    for schema, name, sql in rows(
        "select schema_name, function_name, macro_definition from duckdb_functions()"
        " where database_name = $database and not internal and function_type in ('macro', 'table_macro')"
    ):
        found[f"{prefix}{schema}.{name}()"] = Relation(kind="function", definition=sql)
    return found


def _duckdb_rows(connection: Any, database: str, schema: str, name: str) -> list[tuple[Any, ...]]:
    import duckdb

    try:
        where = ".".join(map(_quoted, (database, schema, name)))
        return list(connection.execute(f"from {where}").fetchall())
    except duckdb.Error as error:  # such as a view whose source was dropped, or that needs a plugin
        return [(f"{type(error).__name__}: {error}",)]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_POSTGRES_KINDS = {"r": "table", "v": "view", "m": "materialized view", "p": "partitioned table"}


@dataclass
class PostgresDatabase:
    """A Postgres database: `connection` returns a new psycopg2 connection in autocommit mode."""

    connection: Any
    database: str

    def execute(self, sql: str) -> None:
        """See `Warehouse`."""
        self._query(sql)

    def _query(self, sql: str, values: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
        with contextlib.closing(self.connection()) as connection, connection.cursor() as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall()) if cursor.description else []

    def relations(self) -> dict[str, Relation]:
        """See `Warehouse`."""
        with contextlib.closing(self.connection()) as connection, connection.cursor() as cursor:

            def rows(sql: str, *values: object) -> list[tuple[Any, ...]]:
                cursor.execute(sql, values)
                return list(cursor.fetchall())

            return _read_postgres(rows)


def _read_postgres(rows: Callable[..., list[tuple[Any, ...]]]) -> dict[str, Relation]:
    found: dict[str, Relation] = {}
    for oid, schema, name, kind, comment, definition, grants, populated in rows(
        "select c.oid, n.nspname, c.relname, c.relkind, obj_description(c.oid, 'pg_class'),"
        " case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end,"
        " (select array_agg(g::text order by g::text) from unnest(c.relacl) g), c.relispopulated"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'"
        " and c.relkind in ('r', 'v', 'm', 'p') order by 2, 3"
    ):
        relation = Relation(kind=_POSTGRES_KINDS[kind], comment=comment, definition=definition)
        relation.columns = rows(
            "select a.attname, format_type(a.atttypid, a.atttypmod), not a.attnotnull,"
            " col_description(a.attrelid, a.attnum), pg_get_expr(d.adbin, d.adrelid)"
            " from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum"
            " where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum",
            oid,
        )
        relation.extras = [
            ["grants", grants],
            *rows("select 'constraint', pg_get_constraintdef(oid) from pg_constraint"
                  " where conrelid = %s order by 2", oid),
            *rows("select 'index', regexp_replace(indexdef, 'INDEX \\S+ ', 'INDEX ') from pg_indexes"
                  " where schemaname = %s and tablename = %s order by 2", schema, name),
        ]  # fmt: skip
        if populated or kind != "m":
            relation.rows = _postgres_rows(rows, schema, name)
        found[f"{schema}.{name}"] = relation
    for (schema,) in rows(
        "select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'"
    ):
        found[schema] = Relation(kind="schema")
    for schema, name, arguments, definition in rows(
        "select n.nspname, p.proname, pg_get_function_identity_arguments(p.oid), pg_get_functiondef(p.oid)"
        " from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
        " where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and p.prokind = 'f'"
    ):
        found[f"{schema}.{name}({arguments})"] = Relation(kind="function", definition=definition)
    return found


def _postgres_rows(
    rows: Callable[..., list[tuple[Any, ...]]], schema: str, name: str
) -> list[tuple[Any, ...]]:
    import psycopg2

    where = f"{_quoted(schema)}.{_quoted(name)}".replace("%", "%%")
    try:
        return rows(f"select * from {where}")  # noqa: S608 - names cannot be parameters
    except (
        psycopg2.Error
    ) as error:  # such as a view whose source was dropped, or a table without select rights
        return [(f"{type(error).__name__}: {error}",)]
