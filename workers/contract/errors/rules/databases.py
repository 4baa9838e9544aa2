"""Error codes of database drivers' exception classes and of databases' error texts.

Postgres: class names of psycopg2 and psycopg 3, one for each SQLSTATE, and the messages of the server and of
libpq. DuckDB: classes of the `duckdb` module, and the messages of DuckDB 1.x and DuckLake. Other warehouses:
wordings that their messages have in common.
"""

from __future__ import annotations

from typing import Final

from workers.contract.errors.rules import Rule, make_rules

SQL_EXCEPTIONS: Final[dict[str, tuple[str, ...]]] = {
    # psycopg2.errors: https://www.postgresql.org/docs/current/errcodes-appendix.html
    "UndefinedColumn": ("missing_column",),
    "UndefinedTable": ("missing_table_alias", "missing_relation"),
    "InvalidSchemaName": ("missing_schema",),
    "InvalidCatalogName": ("missing_database",),
    "UndefinedFunction": ("type_mismatch", "missing_function"),
    "SyntaxError": ("column_count_mismatch", "syntax_error"),
    "AmbiguousColumn": ("ambiguous_column",),
    "DuplicateColumn": ("duplicate_column",),
    "DuplicateTable": ("relation_exists",),
    "DuplicateSchema": ("relation_exists",),
    "GroupingError": ("grouping_error",),
    "WindowingError": ("grouping_error",),
    "DatatypeMismatch": ("type_mismatch",),
    "CannotCoerce": ("type_mismatch",),
    "IndeterminateDatatype": ("type_mismatch",),
    "InvalidTextRepresentation": ("type_mismatch",),
    "InvalidDatetimeFormat": ("type_mismatch",),
    "DatetimeFieldOverflow": ("type_mismatch",),
    "NumericValueOutOfRange": ("out_of_range",),
    "StringDataRightTruncation": ("out_of_range",),
    "DivisionByZero": ("division_by_zero",),
    "CardinalityViolation": ("cardinality_violation",),
    "NotNullViolation": ("constraint_violation",),
    "UniqueViolation": ("serialization_failure", "constraint_violation"),
    "CheckViolation": ("constraint_violation",),
    "ForeignKeyViolation": ("constraint_violation",),
    "ExclusionViolation": ("constraint_violation",),
    "DependentObjectsStillExist": ("dependent_objects",),
    "InFailedSqlTransaction": ("transaction_aborted",),
    "RaiseException": ("raised_error",),
    "DeadlockDetected": ("deadlock",),
    "SerializationFailure": ("serialization_failure",),
    "LockNotAvailable": ("lock_timeout",),
    "QueryCanceled": ("statement_timeout", "lock_timeout", "query_canceled"),
    "AdminShutdown": ("connection_lost",),
    "CrashShutdown": ("connection_lost",),
    "IdleInTransactionSessionTimeout": ("connection_lost",),
    "CannotConnectNow": ("server_unavailable",),
    "TooManyConnections": ("too_many_connections",),
    "OutOfMemory": ("out_of_memory",),
    "DiskFull": ("disk_full",),
    "ConfigurationLimitExceeded": ("disk_full",),
    "InsufficientPrivilege": ("permission_denied",),
    "InvalidPassword": ("authentication_failed",),
    "InvalidAuthorizationSpecification": ("authentication_failed",),
    "ReadOnlySqlTransaction": ("read_only",),
    # duckdb
    "ParserException": ("syntax_error",),
    "ConversionException": ("type_mismatch",),
    "TypeMismatchException": ("type_mismatch",),
    "OutOfRangeException": ("out_of_range",),
    "ConstraintException": ("constraint_violation",),
    "DependencyException": ("dependent_objects",),
    "InterruptException": ("query_canceled",),
    "OutOfMemoryException": ("disk_full", "out_of_memory"),
    "PermissionException": ("permission_denied",),
    "SerializationException": ("serialization_failure",),
    # Python's exceptions, raised by drivers of other warehouses
    "ConnectionRefusedError": ("connection_refused",),
    "ConnectionResetError": ("connection_lost",),
    "BrokenPipeError": ("connection_lost",),
}
"""Exception class → codes. Of several codes, the first one whose rule matches the text counts, else the last one."""

_OURS: Final = make_rules(
    (
        "earlier_attempt_alive",
        (
            r"An earlier execution still holds connections to the server after .*"
            r"\(pg_stat_activity\.pid (?P<pids>[\d, ]+)\)"
        ),
    ),
    ("connection_lost", r"was given to another worker: this "),
)
"""Texts of the errors that `engine.warehouse.fencing` raises."""

_DUCKDB: Final = make_rules(
    ("duckdb_file_locked", (r"Could not set lock on file \"(?P<path>[^\"]+)\": Conflicting lock is held in "
                           r"(?P<program>.*?) \(PID (?P<pid>\d+)\)")),
    ("duckdb_file_locked", r"Could not set lock on file \"(?P<path>[^\"]+)\""),
    ("duckdb_file_locked", r"Cannot open file \"(?P<path>[^\"]+)\": .*(?:used by another process|being used)"),
    ("incompatible_database_version", (r"database file with version number (?P<version>\d+), but we can only read "
                                      r"versions? (?:between )?(?P<supported>\d+(?: and \d+)?)")),
    ("invalid_database_file", r"The file \"(?P<path>[^\"]+)\" exists, but it is not a valid DuckDB database file"),
    ("invalid_database_file", r"Corrupt database file"),
    ("disk_full", r"No space left on device|max_temp_directory_size"),
    ("out_of_memory", r"^Out of Memory Error: "),
    ("permission_denied", r"Cannot open file \"(?P<object>[^\"]+)\": Permission denied"),
    ("permission_denied", r"^Permission Error: "),
    ("missing_file", r"No files found that match the pattern \"(?P<path>[^\"]+)\""),
    ("missing_file", r"Cannot open file \"(?P<path>[^\"]+)\": No such file or directory"),
    ("read_only", r"on database \"(?P<database>[^\"]+)\" which is attached in read-only mode"),
    ("missing_extension", r"in the catalog, but it exists in the (?P<extension>\w+) extension"),
    ("missing_extension", r"Extension \"(?:[^\"]*/)?(?P<extension>\w+)\.duckdb_extension\" not found"),
    ("missing_extension", r"[Ff]ailed to download extension \"(?P<extension>\w+)\""),
    ("query_canceled", r"^INTERRUPT Error: "),
    ("constraint_violation", r"Failed to commit: .*constraint violation"),
    ("serialization_failure", (r"Conflict on (?:update|tuple deletion|append)|[Ww]rite-write conflict"
                              r"|Transaction conflict|Failed to commit DuckLake transaction")),
    ("transaction_aborted", r"Current transaction is aborted"),
    ("connection_lost", r"^FATAL Error: .*database has been invalidated"),
    ("connection_lost", r"^HTTP Error: .*\(HTTP (?:429|5\d\d)"),
    ("missing_column", r"Referenced column \"(?P<column>[^\"]+)\" not found in FROM clause"),
    ("missing_column", r"Table \"(?P<table>[^\"]+)\" does not have a column named \"(?P<column>[^\"]+)\""),
    ("missing_column", r"Column \"(?P<column>[^\"]+)\" in \w+ list not found in FROM clause"),
    ("missing_column", r"Referenced update column (?P<column>\S+) not found in table"),
    ("missing_table_alias", r"Referenced table \"(?P<table>[^\"]+)\" not found"),
    ("missing_schema", r"does not exist because schema \"(?P<schema>[^\"]+)\" does not exist"),
    ("missing_schema", r"Schema with name \"?(?P<schema>[^\s\"]+)\"? does not exist"),
    ("missing_database", r"Catalog \"(?P<database>[^\"]+)\" does not exist"),
    ("missing_relation", r"(?:Table|View) with name \"?(?P<relation>[^\s\"]+)\"? does not exist"),
    ("missing_function", r"Function with name \"?(?P<function>[^\s\"]+)\"? does not exist"),
    ("type_mismatch", (r"(?P<reason>Error when converting column \"(?P<column>[^\"]+)\"\. "
                       r"Could not convert string \"(?P<value>[^\"]*)\" to '[^']+')")),
    ("type_mismatch", r"Could not convert string '(?P<value>[^']*)' to \S+(?: when casting from source column (?P<column>\w+))?"),
    ("type_mismatch", (r"No function matches the given name and argument types|^Conversion Error: "
                      r"|^Mismatch Type Error: |Cannot (?:compare|mix) values of type")),
    ("ambiguous_column", r"Ambiguous reference to column name \"(?P<column>[^\"]+)\" \(use: (?P<choices>.*)\)"),
    ("grouping_error", r"must appear in the GROUP BY clause|clause cannot contain (?:aggregates|window functions)"),
    ("column_count_mismatch", r"same number of result columns|has \d+ columns but \d+ values were supplied"),
    ("cardinality_violation", r"More than one row returned by a subquery"),
    ("out_of_range", r"^Out of Range Error: "),
    ("syntax_error", r"^Parser Error: "),
    ("constraint_violation", r"^Constraint Error: "),
    ("relation_exists", r"with name \"?(?P<relation>[^\s\"]+)\"? already exists"),
    ("wrong_relation_type", (r"Existing object (?P<relation>\S+) is of type (?P<found>\w+), "
                            r"trying to replace with type (?P<wanted>\w+)")),
    ("dependent_objects", r"^Dependency Error: "),
)  # fmt: skip

_POSTGRES: Final = make_rules(
    # two sessions create the same schema or table at once: an index of the catalogue, not of the user
    ("serialization_failure", r"unique constraint \"pg_\w+_index\"|tuple concurrently (?:updated|deleted)"),
    ("authentication_failed", r"authentication failed for user \"(?P<user>[^\"]+)\""),
    ("authentication_failed", r"no pg_hba\.conf entry for host|no password supplied"),
    ("authentication_failed", r"FATAL: +role \"(?P<user>[^\"]+)\" (?:does not exist|is not permitted to log in)"),
    ("missing_database", r"database \"(?P<database>[^\"]+)\" does not exist"),
    ("server_unavailable", (r"the database system is (?P<state>starting up|shutting down|in recovery mode"
                           r"|not (?:yet )?accepting connections)")),
    ("too_many_connections", r"too many connections for|too many clients already|connection slots are reserved"),
    ("dns_failure", r"could not translate host name \"(?P<host>[^\"]+)\".*Temporary failure"),
    ("unknown_host", r"could not translate host name \"(?P<host>[^\"]+)\""),
    ("connection_refused", (r"connection to server at \"(?P<host>[^\"]+)\"(?: \([^)]*\))?, port (?P<port>\d+) failed: "
                           r"(?:Connection refused|No route to host|Network is unreachable)")),
    ("connection_timeout", r"(?:timeout expired|Connection timed out)"),
    ("connection_lost", (r"server closed the connection unexpectedly|terminating connection"
                        r"|SSL connection has been closed unexpectedly|SSL SYSCALL error"
                        r"|(?:connection|cursor) already closed|no connection to the server"
                        r"|could not (?:receive|send) data (?:from|to) server|Connection reset by peer")),
    ("deadlock", r"deadlock detected"),
    ("serialization_failure", r"could not serialize access|due to conflict with recovery"),
    ("lock_timeout", r"due to lock timeout|could not obtain lock on (?:\w+ )?\"?(?P<relation>[^\s\"]+)"),
    ("statement_timeout", r"due to statement timeout"),
    ("query_canceled", r"canceling statement due to user request"),
    ("disk_full", r"No space left on device|temporary file size exceeds \"?temp_file_limit"),
    ("out_of_memory", r"^(?:FATAL: +|ERROR: +)?out of (?:shared )?memory"),
    ("permission_denied", r"permission denied for (?P<object>(?P<what>\w+) (?P<name>\S+))"),
    ("permission_denied", r"must be owner of (?P<object>(?P<what>\w+) (?P<name>\S+))"),
    ("read_only", r"in a read-only transaction"),
    ("missing_column", (r"column \"?(?:(?P<table>[^\s\".]+)\.)?(?P<column>[^\s\".]+)\"?"
                       r"(?: of relation \"(?P<relation>[^\"]+)\")? does not exist")),
    ("missing_relation", r"(?:relation|table|view) \"(?P<relation>[^\"]+)\" does not exist"),
    ("missing_schema", r"schema \"(?P<schema>[^\"]+)\" does not exist"),
    ("missing_function", r"(?:function|procedure) (?P<function>[\w.\"]+)\((?P<arguments>[^()\n]*)\) does not exist"),
    ("missing_table_alias", r"missing FROM-clause entry for table \"(?P<table>[^\"]+)\""),
    ("missing_table_alias", r"invalid reference to FROM-clause entry for table \"(?P<table>[^\"]+)\""),
    ("type_mismatch", r"invalid input syntax for type (?P<type>[\w ]+): \"(?P<value>[^\"]*)\""),
    ("type_mismatch", (r"operator does not exist|invalid input syntax for type|cannot cast type|cannot be matched"
                      r"|date/time field value out of range|is of type .* but expression is of type")),
    ("ambiguous_column", r"column reference \"(?P<column>[^\"]+)\" is ambiguous"),
    ("grouping_error", r"must appear in the GROUP BY clause|functions are not allowed in|requires an OVER clause"),
    ("column_count_mismatch", r"must have the same number of columns|INSERT has (?:more|fewer)"),
    ("duplicate_column", r"column \"(?P<column>[^\"]+)\" specified more than once"),
    ("syntax_error", r"syntax error at (?:or near|end of input)|unterminated quoted"),
    ("division_by_zero", r"^division by zero"),
    ("out_of_range", r"out of range|field overflow|value too long for type"),
    ("cardinality_violation", r"more than one row returned by a subquery|affect row a second time"),
    ("constraint_violation", r"violates (?:not-null|unique|check|foreign key|exclusion) constraint"),
    ("relation_exists", r"relation \"(?P<relation>[^\"]+)\" already exists"),
    ("wrong_relation_type", r"\"(?P<relation>[^\"]+)\" is not a (?P<wanted>table|view|materialized view)"),
    ("dependent_objects", r"because other objects depend on it"),
    ("transaction_aborted", r"current transaction is aborted"),
)  # fmt: skip

_ANY: Final = make_rules(
    ("authentication_failed", r"(?i)authentication failed|(?:incorrect|invalid) (?:user ?name|password|credentials)"),
    ("permission_denied", r"(?i)(?:permission|access) denied|insufficient privileges?|not authorized to"),
    ("deadlock", r"(?i)\bdeadlock"),
    ("serialization_failure", (r"(?i)serialization failure|concurrent (?:update|modification|append|delete)"
                              r"|could not serialize")),
    ("lock_timeout", r"(?i)lock (?:wait )?timeout"),
    ("too_many_connections", r"(?i)too many (?:connections|clients|concurrent)"),
    ("connection_refused", r"(?i)connection refused|failed to connect|could not connect|unable to connect"),
    ("connection_lost", r"(?i)connection (?:was )?(?:reset|lost|closed|aborted)|broken pipe|server has gone away"),
    ("dns_failure", r"(?i)temporary failure in name resolution"),
    ("unknown_host", r"(?i)name or service not known|nodename nor servname|getaddrinfo failed"),
    ("statement_timeout", r"(?i)statement timeout|query (?:timed out|timeout)|execution time exceeded"),
    ("connection_timeout", r"(?i)connection timed ?out|connect timeout"),
    ("disk_full", r"(?i)no space left|disk full"),
    ("out_of_memory", r"(?i)out of memory|memory limit exceeded|not enough memory"),
    ("missing_column", (r"(?i)(?:invalid identifier|unrecognized name:?|unknown column|no such column:?|invalid column "
                       r"name|column (?:not found:?|with name)|unresolved_column\S* .*?with name) "
                       r"['\"`]*(?P<column>[\w.]+)")),
    ("missing_relation", (r"(?i)(?:table|view|object|relation)(?: or view)? ['\"`]?(?P<relation>[\w.$-]+)['\"`]? "
                         r"(?:does not exist|not found|cannot be found|doesn't exist)")),
    ("missing_relation", (r"(?i)(?:no such table|not found: table|invalid object name|table not found):? "
                         r"['\"`]?(?P<relation>[\w.:$-]+)")),
    ("missing_function", r"(?i)(?:unknown|no such|undefined|unresolved) function:? ['\"`]?(?P<function>[\w.]+)"),
    ("ambiguous_column", r"(?i)column (?:name |reference )?['\"`]?(?P<column>[\w.]+)['\"`]? (?:in .* )?is ambiguous"),
    ("division_by_zero", r"(?i)divi(?:sion|de) by zero"),
    ("syntax_error", r"(?i)syntax error|parse error|mismatched input|incorrect syntax"),
    ("type_mismatch", r"(?i)type mismatch|cannot (?:be )?(?:cast|convert)|no matching signature"),
    ("constraint_violation", r"(?i)violates .*constraint|duplicate (?:key|entry)|cannot be null"),
    ("relation_exists", r"(?i)(?<![\w.$-])(?P<relation>[\w.$-]{1,300})['\"`]? already exists"),
)  # fmt: skip

_WITH_DUCKDB: Final = frozenset({"duckdb", ""})


def sql_rules(adapter: str) -> tuple[Rule, ...]:
    """Return the rules for an adapter's error texts, special ones before general ones.

    Args:
        adapter: dbt's name of the adapter; empty where unknown.
    """
    if adapter in _WITH_DUCKDB:
        # DuckDB passes on the messages of an attached Postgres server, such as DuckLake's catalog.
        return (*_OURS, *_DUCKDB, *_POSTGRES, *_ANY)
    return (*_OURS, *_POSTGRES, *_ANY)
