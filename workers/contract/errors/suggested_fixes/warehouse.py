"""Suggested fixes for errors of the warehouse: connection, locks, limits, permissions and SQL."""

from __future__ import annotations

import re
from typing import Final

from workers.contract.errors.diagnosis import Diagnosis, Fix
from workers.contract.errors.suggested_fixes.similar_names import did_you_mean, nearest

_CANDIDATES: Final = re.compile(r"Candidate (?:bindings|tables|columns): *:? *(?P<names>.*)")
_PERHAPS: Final = re.compile(r"Perhaps you meant to reference the (?:column|table alias) (?P<names>.*)")
_SUGGESTION: Final = re.compile(
    r"(?i)did you mean (?:one of the following\? \[(?P<several>[^\]]*)\]|[\"'`]?(?P<one>[\w.$]+))"
)


def candidates(diagnosis: Diagnosis) -> list[str]:
    """Return the names that the database's text proposes, without their table."""
    text = diagnosis.parsed.core
    names: list[str] = []
    for pattern in (_CANDIDATES, _PERHAPS):
        found = pattern.search(text)
        if found is not None:
            names += re.findall(r"\"([^\"]+)\"", found["names"])
    proposed = _SUGGESTION.search(text) if not names else None
    if proposed is not None:
        names = re.findall(r"[\w.$]+", proposed["several"] or proposed["one"])
    return [name.rpartition(".")[2] for name in names]


def _missing_column(diagnosis: Diagnosis) -> str:
    column = diagnosis.named("column").rpartition(".")[2]
    there = candidates(diagnosis)
    likely = nearest(column, there) or there[:1]
    if likely:
        others = [name for name in there if name != likely[0]]
        also = f" (columns like it: {', '.join(others)})" if others else ""
        return f'Did you mean "{likely[0]}"{also}? Correct "{column}" in {diagnosis.place_in_sql}.'
    upstream = diagnosis.refs()
    if upstream:
        return (
            f'Correct "{column}" in {diagnosis.place_in_sql}; `dbt-relay show --select {upstream[0]} --limit 1` '
            f"shows which columns {upstream[0]} has."
        )
    return f'Correct "{column}" in {diagnosis.place_in_sql}, or add the column to the table that it reads.'


def _missing_relation(diagnosis: Diagnosis) -> str:
    name = diagnosis.named("relation").rpartition(".")[2].strip('"')
    known = diagnosis.known()
    source = diagnosis.source_of(name)
    kind = known.get(name, "")
    if source is not None or kind == "source":
        return (
            f"Load the table of source {source or name} first, or correct its schema and identifier in "
            "the YAML that declares it."
        )
    if kind == "seed":
        return f"Load the seed first: `dbt-relay seed --select {name}`."
    if kind == "snapshot":
        return f"Take the snapshot first: `dbt-relay snapshot --select {name}`."
    if name in known or name in diagnosis.refs():
        return f"Build it first: `dbt-relay run --select +{name}`."
    likely = nearest(name, known)
    if likely:
        return (
            f"Did you mean {' or '.join(repr(one) for one in likely)}? Use ref('{likely[0]}') in {diagnosis.place_in_sql}; if "
            f"it is not built yet: `dbt-relay run --select +{likely[0]}`."
        )
    return (
        f"Correct the name in {diagnosis.place_in_sql}, or create {name} first. Refer to a model with ref() and to any "
        "other table with source(), so that dbt builds nodes in order."
    )


def _missing_function(diagnosis: Diagnosis) -> str:
    function = diagnosis.named("function")
    hint = did_you_mean(function, candidates(diagnosis))
    typed = " cast its arguments," if diagnosis.fact("arguments") else ""
    return (
        f"{hint} Correct {function} in {diagnosis.place_in_sql},{typed} or create the function first.".strip()
    )


def _missing_alias(diagnosis: Diagnosis) -> str:
    there = candidates(diagnosis)
    hint = did_you_mean(diagnosis.fact("table"), there) or (
        f"Available: {', '.join(there)}." if there else ""
    )
    return f"{hint} Add {diagnosis.named('table')} to FROM or correct the alias in {diagnosis.place_in_sql}.".strip()


def _syntax_error(diagnosis: Diagnosis) -> str:
    near = re.search(r"at or near \"([^\"]*)\"", diagnosis.parsed.core)
    if "unterminated quoted" in diagnosis.parsed.core:
        return f"Close the quotation mark in {diagnosis.place_in_sql}."
    at_its_end = near is not None and near[1] in {";", ")"} and not diagnosis.in_sql
    if "end of input" in diagnosis.parsed.core or at_its_end:
        return f"The SQL of {diagnosis.place} is incomplete: look for an open parenthesis, CASE or CTE at its end."
    what = f", just before '{near[1]}'" if near is not None else ""
    return f"Correct the SQL of {diagnosis.place_in_sql}{what}: often an extra comma or a misspelt keyword."


def _type_mismatch(diagnosis: Diagnosis) -> str:
    value, column = diagnosis.fact("value"), diagnosis.fact("column")
    if value:
        return (
            f"Clean or filter values such as '{value}' in {f'column {column}' if column else 'the column'} before the "
            f"cast, or use try_cast where there is one, in {diagnosis.place_in_sql}."
        )
    return f"Cast one side to the type of the other in {diagnosis.place_in_sql}."


def _cardinality(diagnosis: Diagnosis) -> str:
    if "affect row a second time" in diagnosis.parsed.core:
        return (
            f"Several new rows have the same unique_key: make them unique in {diagnosis.place}, or add a column "
            "to unique_key."
        )
    return f"Make the subquery of {diagnosis.place} return one row: aggregate, or add order by and limit 1."


def _raised(diagnosis: Diagnosis) -> str:
    return f"Code in the database (a trigger or function) raised this error: {diagnosis.parsed.reason}."


def _file_locked(diagnosis: Diagnosis) -> str:
    path, pid = diagnosis.fact("path", "the file"), diagnosis.fact("pid")
    if not pid:
        return f"Close the program that has {path} open."
    program = diagnosis.fact("program")
    return f"Close the program with PID {pid} ({program}), which has {path} open (`ps -p {pid}`)."


def _refused(diagnosis: Diagnosis) -> str:
    host, port = diagnosis.fact("host", "the host"), diagnosis.fact("port", "the port")
    return f"Start the database at {host}, port {port}, or correct host and port in profiles.yml."


def _out_of_memory(diagnosis: Diagnosis) -> str:
    if diagnosis.failure.adapter == "duckdb" or "memory_limit" in diagnosis.parsed.core:
        return (
            "Raise memory_limit or lower threads under settings: in profiles.yml, and set temp_directory so that "
            f"DuckDB can spill to disk; or make {diagnosis.where or 'the model'} smaller."
        )
    return f"Give the database or the worker more memory, run fewer nodes at once, or make {diagnosis.where or 'the model'} smaller."


def _disk_full(diagnosis: Diagnosis) -> str:
    if "max_temp_directory_size" in diagnosis.parsed.core:
        return "Raise max_temp_directory_size under settings: in profiles.yml, or make the model smaller."
    if "temp_file_limit" in diagnosis.parsed.core:
        return "Raise temp_file_limit in Postgres, or make the model sort and join less at once."
    own = re.search(r"\[Errno 28\] No space left on device(?:: '(?P<path>[^']+)')?", diagnosis.parsed.core)
    if own is not None:  # Python's error: dbt could not write a file, not the database
        where = own["path"] or diagnosis.failure.target or "the target folder"
        return (
            f"Free disk space for {where} on the worker, or choose other folders for dbt's files (--target-path, "
            "--log-path); then run `dbt-relay retry`."
        )
    return "Free disk space for the database's files, then run `dbt-relay retry`."


def _permission(diagnosis: Diagnosis) -> str:
    what, name = diagnosis.fact("what"), diagnosis.fact("name")
    if what in {"table", "view", "relation", "sequence"}:
        return f"Have its owner run `grant select on {name} to <user of the profile>;`, or use another user."
    if what == "schema":
        return f"Have its owner run `grant usage, create on schema {name} to <user of the profile>;`."
    thing = diagnosis.fact("object")
    if "/" in thing:
        return f"Give the user of the worker access to {thing}."
    return f"Grant the required privilege{' on ' + thing if thing else ''} to the profile's user, or use another user."


def _authentication(diagnosis: Diagnosis) -> str:
    user = diagnosis.fact("user")
    who = f' of user "{user}"' if user else ""
    return f"Correct user and password{who} in profiles.yml, or in the environment variables that it reads."


def _incompatible(diagnosis: Diagnosis) -> str:
    version, supported = diagnosis.fact("version"), diagnosis.fact("supported").replace(" and ", " to ")
    return (
        f"Install a newer duckdb where the workers run (the file has storage version {version}, this one reads "
        f"{supported}), or convert the file: EXPORT DATABASE with the newer duckdb, IMPORT DATABASE with this one."
    )


def _missing_file(diagnosis: Diagnosis) -> str:
    path = diagnosis.fact("path", "the file")
    if path.endswith((".duckdb", ".db")):
        return f"Create the folder of {path}, or correct path: in profiles.yml."
    return (
        f"Put the file at {path}, or correct the path in {diagnosis.place}; relative paths start at the folder in "
        "which dbt was started."
    )


def _other_type(diagnosis: Diagnosis) -> str:
    return (
        f"Drop {diagnosis.fact('relation', 'the relation')}, or run "
        f"`dbt-relay run --full-refresh --select {diagnosis.select}`."
    )


def _database_error(diagnosis: Diagnosis) -> str:
    if diagnosis.select == "<node>":
        return f"Correct {diagnosis.place} as the database's message says."
    return f"Correct {diagnosis.place} as the database's message says; `dbt-relay compile --select {diagnosis.select}` shows the SQL."


WAREHOUSE_FIXES: Final[dict[str, Fix]] = {
    # connection
    "connection_refused": _refused,
    "connection_lost": "Read the database's log: it says why the server closed the connection.",
    "connection_timeout": "Check host, port and firewall between worker and database.",
    "dns_failure": "Check the name server of the worker's machine.",
    "unknown_host": lambda d: f"Correct host: in profiles.yml (no address was found for {d.fact('host', 'it')}).",
    "server_unavailable": "Wait until the database accepts connections.",
    "too_many_connections": "Lower threads or the number of workers, or raise the limit.",
    "authentication_failed": _authentication,
    "missing_database": lambda d: (
        f"Create database {d.named('database')}, or correct dbname: (database:) in profiles.yml."
    ),
    "missing_file": _missing_file,
    "missing_extension": lambda d: (
        f"Run `INSTALL {d.named('extension')}` once where the workers run, and list it under extensions: in profiles.yml."
    ),
    "incompatible_database_version": _incompatible,
    "invalid_database_file": lambda d: (
        f"Correct path: in profiles.yml ({d.fact('path', 'it')} is not a readable DuckDB file), or restore the file from a copy."
    ),
    # locks
    "duckdb_file_locked": _file_locked,
    "earlier_attempt_alive": lambda d: (
        f"End the server processes {d.fact('pids', 'in the message')} by hand: they did not end when dbt-relay "
        "terminated them."
    ),
    "deadlock": "If it recurs, run the nodes that write to the same tables one after the other.",
    "serialization_failure": "If it recurs, allow only one transaction at a time to write.",
    "lock_timeout": lambda d: (
        f"Find the session that holds the lock{' on ' + d.fact('relation').strip(chr(34)) if d.fact('relation') else ''} "
        f"(pg_locks, pg_stat_activity), or raise lock_timeout."
    ),
    "transaction_aborted": "Find the first statement of this node that failed: this error only follows from it.",
    # limits and permissions
    "statement_timeout": lambda d: (
        f"Make {d.where or 'the statement'} faster, or raise statement_timeout for the profile's user."
    ),
    "out_of_memory": _out_of_memory,
    "disk_full": _disk_full,
    "permission_denied": _permission,
    "read_only": "Open the database for writing: remove access_mode: read_only from profiles.yml, or use the primary server.",
    "query_canceled": "If the query was cancelled by mistake, run `dbt-relay retry`.",
    # SQL
    "missing_column": _missing_column,
    "missing_relation": _missing_relation,
    "missing_schema": lambda d: (
        f"Correct schema {d.named('schema')} in {d.place_in_sql}, or create it: `create schema {d.named('schema')}`."
    ),
    "missing_function": _missing_function,
    "missing_table_alias": _missing_alias,
    "ambiguous_column": lambda d: (
        f"Qualify {d.named('column')} with its table in {d.place_in_sql}"
        f"{': ' + d.fact('choices').replace(chr(34), '') if d.fact('choices') else ''}."
    ),
    "duplicate_column": lambda d: f"Rename one of the two columns {d.named('column')} in {d.place_in_sql} with `as`.",
    "column_count_mismatch": lambda d: f"Give both sides the same columns in {d.place_in_sql}.",
    "syntax_error": _syntax_error,
    "grouping_error": lambda d: f"Add the column to GROUP BY or aggregate it, in {d.place_in_sql}.",
    "type_mismatch": _type_mismatch,
    "out_of_range": lambda d: f"Cast to a wider type before the arithmetic (bigint, numeric), in {d.place_in_sql}.",
    "division_by_zero": lambda d: f"Divide by nullif(<divisor>, 0) in {d.place_in_sql}.",
    "cardinality_violation": _cardinality,
    "relation_exists": _other_type,
    "wrong_relation_type": _other_type,
    "dependent_objects": "Drop or rebuild the dependent objects first: the detail lists them.",
    "raised_error": _raised,
    "database_error": _database_error,
}  # fmt: skip
