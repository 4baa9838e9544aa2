"""Everything that is in a warehouse: relations, columns, comments, definitions, rows."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import duckdb


@dataclass
class Relation:
    """A relation as a warehouse shows it."""

    kind: str
    columns: list[tuple[Any, ...]] = field(default_factory=list)
    """Name, type, nullable, comment, default; in order."""
    comment: str | None = None
    definition: str | None = None
    extras: list[Any] = field(default_factory=list)
    """Constraints, indexes, grants."""
    rows: list[tuple[Any, ...]] = field(default_factory=list)


class Warehouse(Protocol):
    """One side's warehouse."""

    database: str
    """Its name inside SQL where that differs between sides, or ''."""

    def relations(self) -> dict[str, Relation]:
        """Every relation that is not the warehouse's own, by schema and name."""

    def execute(self, sql: str) -> None:
        """Change it from outside, as another program would."""


@dataclass
class DuckDBFile:
    """A DuckDB file; opened for the time of a call only."""

    path: Path
    database: str = ""

    def execute(self, sql: str) -> None:
        """See `Warehouse`."""
        with contextlib.closing(duckdb.connect(str(self.path))) as connection:
            connection.execute(sql)

    def relations(self) -> dict[str, Relation]:
        """See `Warehouse`."""
        if not self.path.exists():
            return {}
        with contextlib.closing(duckdb.connect(str(self.path), read_only=True)) as connection:
            return self._read(connection)

    def _read(self, connection: Any) -> dict[str, Relation]:
        found: dict[str, Relation] = {}
        here = "database_name = current_database() and not internal"
        for schema, name, comment in connection.execute(
            f"select schema_name, table_name, comment from duckdb_tables() where {here}"
        ).fetchall():
            found[f"{schema}.{name}"] = Relation(kind="table", comment=comment)
        for schema, name, comment, sql in connection.execute(
            f"select schema_name, view_name, comment, sql from duckdb_views() where {here}"
        ).fetchall():
            found[f"{schema}.{name}"] = Relation(kind="view", comment=comment, definition=sql)
        for schema, name, *column in connection.execute(
            "select schema_name, table_name, column_name, data_type, is_nullable, comment, column_default"
            f" from duckdb_columns() where {here} order by schema_name, table_name, column_index"
        ).fetchall():
            found[f"{schema}.{name}"].columns.append(tuple(column))
        for schema, name, *extra in connection.execute(
            "select schema_name, table_name, constraint_type, constraint_text from duckdb_constraints()"
            " where database_name = current_database() union all"
            " select schema_name, table_name, 'index', sql from duckdb_indexes()"
            " where database_name = current_database() order by all"
        ).fetchall():
            found[f"{schema}.{name}"].extras.append(extra)
        for (schema,) in connection.execute(
            f"select schema_name from duckdb_schemas() where {here}"
        ).fetchall():
            found[schema] = Relation(kind="schema")
        for schema, name, sql in connection.execute(
            "select schema_name, function_name, macro_definition from duckdb_functions()"
            f" where {here} and function_type in ('macro', 'table_macro')"
        ).fetchall():
            found[f"{schema}.{name}()"] = Relation(kind="function", definition=sql)
        for key, relation in found.items():
            if relation.kind in {"table", "view"}:
                schema, _, name = key.partition(".")
                try:
                    relation.rows = connection.execute(f'from "{schema}"."{name}"').fetchall()
                except duckdb.Error as error:  # a view whose source was dropped
                    relation.rows = [(f"{type(error).__name__}: {error}",)]
        return found


_POSTGRES_KINDS = {"r": "table", "v": "view", "m": "materialized view", "p": "partitioned table"}


@dataclass
class PostgresDatabase:
    """A Postgres database: ``connect`` gives a new autocommitting psycopg2 connection."""

    connection: Any
    database: str

    def execute(self, sql: str) -> None:
        """See `Warehouse`."""
        self._query(sql)

    def _query(self, sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(self.connection()) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def relations(self) -> dict[str, Relation]:
        """See `Warehouse`."""
        mine = "n.nspname !~ '^pg_' and n.nspname <> 'information_schema'"
        found: dict[str, Relation] = {}
        for oid, schema, name, kind, comment, definition, grants in self._query(
            "select c.oid, n.nspname, c.relname, c.relkind, obj_description(c.oid, 'pg_class'),"
            " case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end,"
            " (select array_agg(g::text order by g::text) from unnest(c.relacl) g)"
            " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            f" where {mine} and c.relkind in ('r', 'v', 'm', 'p') order by 2, 3"
        ):
            relation = Relation(kind=_POSTGRES_KINDS[kind], comment=comment, definition=definition)
            relation.columns = self._query(
                "select a.attname, format_type(a.atttypid, a.atttypmod), not a.attnotnull,"
                " col_description(a.attrelid, a.attnum), pg_get_expr(d.adbin, d.adrelid)"
                " from pg_attribute a left join pg_attrdef d"
                " on d.adrelid = a.attrelid and d.adnum = a.attnum"
                f" where a.attrelid = {oid} and a.attnum > 0 and not a.attisdropped order by a.attnum"
            )
            relation.extras = [
                ["grants", grants],
                *self._query(f"select 'constraint', pg_get_constraintdef(oid) from pg_constraint"
                             f" where conrelid = {oid} order by 2"),
                *self._query(f"select 'index', regexp_replace(indexdef, 'INDEX \\S+ ', 'INDEX ') from pg_indexes"
                             f" where schemaname = '{schema}' and tablename = '{name}' order by 2"),
            ]  # fmt: skip
            if not (kind == "m" and not self._populated(oid)):
                relation.rows = self._query(f'select * from "{schema}"."{name}"')
            found[f"{schema}.{name}"] = relation
        for (schema,) in self._query(f"select nspname from pg_namespace n where {mine}"):
            found[schema] = Relation(kind="schema")
        for schema, name, definition in self._query(
            "select n.nspname, p.proname, pg_get_functiondef(p.oid) from pg_proc p"
            f" join pg_namespace n on n.oid = p.pronamespace where {mine} and p.prokind = 'f'"
        ):
            found[f"{schema}.{name}()"] = Relation(kind="function", definition=definition)
        return found

    def _populated(self, oid: int) -> bool:
        return bool(self._query(f"select relispopulated from pg_class where oid = {oid}")[0][0])
