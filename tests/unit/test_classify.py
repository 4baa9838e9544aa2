"""Classification from texts that dbt 1.11, DuckDB 1.5 and Postgres print, shortened.

What dbt gives on broken projects today is in tests/integration/test_error_categories.py; here is what
cannot be brought about in a test, other wordings of the same, and the rules that decide between them.
"""

from __future__ import annotations

import time
from textwrap import indent

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contract.errors import Category, exception_of
from workers.contract.errors.classify import Failure, classify, classify_text
from workers.contract.errors.error_codes import ERROR_CODES
from workers.contract.errors.rules.databases import SQL_EXCEPTIONS, sql_rules
from workers.contract.errors.rules.dbt import DBT_EXCEPTIONS, DBT_RULES
from workers.contract.errors.suggested_fixes import FIXES

COMPILATION = ("CompilationError", "DbtRuntimeError", "RuntimeError", "DbtBaseException")
PARSING = ("ParsingError", "DbtRuntimeError", "RuntimeError", "DbtBaseException")
DATABASE = ("DbtDatabaseError", "DbtRuntimeError", "RuntimeError", "DbtBaseException")
RUNTIME = ("DbtRuntimeError", "RuntimeError", "DbtBaseException")

PASSING = {
    "broker_unavailable",
    "connection_lost", "connection_refused", "connection_timeout", "deadlock", "dns_failure", "duckdb_file_locked",
    "earlier_attempt_alive", "lock_timeout", "package_unreachable", "serialization_failure", "server_unavailable", "too_many_connections",
}  # fmt: skip

# adapter, text, code
TEXTS = [
    # Postgres: reaching it
    ("postgres", ('Database Error\n  connection to server at "127.0.0.1", port 1 failed: Connection refused\n'
     "  \tIs the server running on that host and accepting TCP/IP connections?\n  "), "connection_refused"),
    ("postgres", 'Database Error\n  connection to server at "db" (10.0.0.7), port 5432 failed: No route to host', "connection_refused"),
    ("postgres", 'Database Error\n  connection to server at "db" (10.0.0.7), port 5432 failed: timeout expired', "connection_timeout"),
    ("postgres", 'Database Error\n  connection to server at "127.0.0.1", port 5 failed: FATAL:  the database system is shutting down',
     "server_unavailable"),
    ("postgres", 'Database Error\n  connection to server at "127.0.0.1", port 5 failed: FATAL:  the database system is starting up',
     "server_unavailable"),
    ("postgres", 'Database Error\n  connection to server at "db", port 5 failed: FATAL:  sorry, too many clients already',
     "too_many_connections"),
    ("postgres", 'Database Error\n  connection to server at "db", port 5 failed: FATAL:  too many connections for role "narrow2"',
     "too_many_connections"),
    ("postgres", 'Database Error\n  could not translate host name "db" to address: Temporary failure in name resolution', "dns_failure"),
    ("postgres", 'Database Error\n  could not translate host name "db" to address: Name or service not known', "unknown_host"),
    ("postgres", ('Database Error\n  connection to server at "db", port 5 failed: FATAL:  no pg_hba.conf entry for host "10.0.0.9", '
     'user "relay", database "x", no encryption'), "authentication_failed"),
    ("postgres", 'Database Error\n  connection to server at "db", port 5 failed: FATAL:  role "relay" is not permitted to log in',
     "authentication_failed"),
    ("postgres", ("Database Error in model a (models/a.sql)\n  terminating connection due to administrator command\n"
     "  SSL connection has been closed unexpectedly"), "connection_lost"),
    ("postgres", ("Database Error in model a (models/a.sql)\n  server closed the connection unexpectedly\n"
     "  \tThis probably means the server terminated abnormally\n  \tbefore or while processing the request.\n"
     "  compiled code at target/run/errors/models/a.sql"), "connection_lost"),
    ("postgres", "Runtime Error in model a (models/a.sql)\n  connection already closed", "connection_lost"),
    # Postgres: sharing it, its limits
    ("postgres", ("Database Error in model a (models/a.sql)\n  deadlock detected\n  DETAIL:  Process 11862 waits for "
     "AccessExclusiveLock on relation 16483 of database 5; blocked by process 11827."), "deadlock"),
    ("postgres", "Database Error in model a (models/a.sql)\n  could not serialize access due to concurrent update", "serialization_failure"),
    ("postgres", "Database Error in model a (models/a.sql)\n  canceling statement due to conflict with recovery", "serialization_failure"),
    ("postgres", ("Database Error in model a (models/a.sql)\n  canceling statement due to lock timeout\n"
     "  LINE 3:         insert into public.ta values (1)\n                              ^"), "lock_timeout"),
    ("postgres", "Database Error in model a (models/a.sql)\n  canceling statement due to statement timeout", "statement_timeout"),
    ("postgres", "Database Error in model a (models/a.sql)\n  canceling statement due to user request", "query_canceled"),
    ("postgres", "Database Error in model a (models/a.sql)\n  out of memory\n  DETAIL:  Failed on request of size 1048576.", "out_of_memory"),
    ("postgres", 'Database Error in model a (models/a.sql)\n  could not extend file "base/5/16483": No space left on device', "disk_full"),
    ("postgres", "Database Error in model a (models/a.sql)\n  temporary file size exceeds temp_file_limit (1024kB)", "disk_full"),
    ("postgres", "Database Error in model a (models/a.sql)\n  cannot execute CREATE TABLE AS in a read-only transaction", "read_only"),
    ("postgres", "Database Error in model a (models/a.sql)\n  permission denied for schema errors", "permission_denied"),
    ("postgres", "Database Error in model a (models/a.sql)\n  must be owner of view orders", "permission_denied"),
    # two sessions create the same schema, table or grant at once
    (
        "postgres",
        (
            'Database Error\n  duplicate key value violates unique constraint "pg_namespace_nspname_index"\n'
            "  DETAIL:  Key (nspname)=(racer) already exists."
        ),
        "serialization_failure",
    ),
    ("postgres", "Database Error in model a (models/a.sql)\n  tuple concurrently updated", "serialization_failure"),
    # Postgres: its SQL
    ("postgres", 'Database Error in model a (models/a.sql)\n  column "x" of relation "orders" does not exist', "missing_column"),
    ("postgres", 'Database Error in model a (models/a.sql)\n  missing FROM-clause entry for table "x"', "missing_table_alias"),
    ("postgres", 'Database Error in model a (models/a.sql)\n  schema "nosch" does not exist', "missing_schema"),
    ("postgres", 'Database Error in model a (models/a.sql)\n  column "a" specified more than once', "duplicate_column"),
    ("postgres", "Database Error in model a (models/a.sql)\n  each UNION query must have the same number of columns", "column_count_mismatch"),
    ("postgres", "Database Error in model a (models/a.sql)\n  UNION types integer and text cannot be matched", "type_mismatch"),
    ("postgres", "Database Error in model a (models/a.sql)\n  cannot cast type json to integer", "type_mismatch"),
    ("postgres", "Database Error in model a (models/a.sql)\n  aggregate functions are not allowed in WHERE", "grouping_error"),
    ("postgres", 'Database Error in model a (models/a.sql)\n  relation "orders" already exists', "relation_exists"),
    ("postgres", 'Database Error in model a (models/a.sql)\n  "orders" is not a view\n  HINT:  Use DROP TABLE to remove a table.',
     "wrong_relation_type"),
    ("postgres", "Database Error in model a (models/a.sql)\n  cannot drop table orders because other objects depend on it", "dependent_objects"),
    ("postgres", ("Database Error in model a (models/a.sql)\n  current transaction is aborted, commands ignored until end of "
     "transaction block"), "transaction_aborted"),
    ("postgres", "Database Error in model a (models/a.sql)\n  numeric field overflow", "out_of_range"),
    ("postgres", ("Database Error\n  An earlier execution still holds connections to the server after 30 s of asking for their end "
     "(pg_stat_activity.pid 71, 72)"), "earlier_attempt_alive"),
    ("postgres", "Database Error\n  model.p.a was given to another worker: this worker did not renew its lease in time", "connection_lost"),
    ("postgres", "Database Error in model a (models/a.sql)\n  an unknown error", "database_error"),
    # DuckDB
    ("duckdb", ('IO Error: Could not set lock on file "/data/x.duckdb": Conflicting lock is held in /usr/bin/python3.11 (PID 10239). '
     "See also https://duckdb.org/docs/stable/connect/concurrency"), "duckdb_file_locked"),
    ("duckdb", 'Runtime Error\n  IO Error: Could not set lock on file "x.duckdb": Resource temporarily unavailable', "duckdb_file_locked"),
    ("duckdb", 'IO Error: Cannot open file "c:\\x.duckdb": The process cannot access the file because it is being used by another process.',
     "duckdb_file_locked"),
    ("duckdb", ("IO Error: Corrupt database file: computed checksum 3582292983710471942 does not match stored checksum "
     "13381279445268027142 in block at location 0"), "invalid_database_file"),
    ("duckdb", 'Runtime Error in model a (models/a.sql)\n  IO Error: Could not write file "x.duckdb": No space left on device', "disk_full"),
    ("duckdb", 'IO Error: Cannot open file "/data/x.duckdb": Permission denied', "permission_denied"),
    ("duckdb", "Runtime Error in model a (models/a.sql)\n  TransactionContext Error: Conflict on update!", "serialization_failure"),
    ("duckdb", 'Runtime Error in model a (models/a.sql)\n  TransactionContext Error: Catalog write-write conflict on create with "main"',
     "serialization_failure"),
    ("duckdb", ("Runtime Error in model a (models/a.sql)\n  TransactionContext Error: Failed to commit: Failed to commit DuckLake "
     'transaction.\n  Transaction conflict - attempting to delete from table with index "1" - but another transaction has deleted from it'),
     "serialization_failure"),
    ("duckdb", ("Runtime Error in model a (models/a.sql)\n  TransactionContext Error: Failed to commit: PRIMARY KEY or UNIQUE constraint "
     'violation: duplicate key "1"'), "constraint_violation"),
    ("duckdb", "Runtime Error in model a (models/a.sql)\n  TransactionContext Error: Current transaction is aborted (please ROLLBACK)",
     "transaction_aborted"),
    ("duckdb", "Runtime Error in model a (models/a.sql)\n  INTERRUPT Error: Interrupted!", "query_canceled"),
    ("duckdb", ('Runtime Error in model a (models/a.sql)\n  Catalog Error: Scalar Function with name "st_point" is not in the catalog, but it '
     "exists in the spatial extension."), "missing_extension"),
    ("duckdb", 'IO Error: Extension "/home/u/.duckdb/extensions/v1.5.5/linux_amd64/spatial.duckdb_extension" not found.', "missing_extension"),
    ("duckdb", 'IO Error: Failed to download extension "spatial" at URL "http://extensions.duckdb.org/x.gz"', "missing_extension"),
    ("duckdb", 'Runtime Error in model a (models/a.sql)\n  Binder Error: Referenced table "x" not found!\n  Candidate tables: "t"',
     "missing_table_alias"),
    ("duckdb", 'Runtime Error in model a (models/a.sql)\n  Binder Error: Column "zz" in EXCLUDE list not found in FROM clause', "missing_column"),
    ("duckdb", "Runtime Error in model a (models/a.sql)\n  Catalog Error: Schema with name nosch does not exist!", "missing_schema"),
    ("duckdb", ("Runtime Error in model a (models/a.sql)\n  Catalog Error: Existing object tt is of type Table, trying to replace with type "
     "View"), "wrong_relation_type"),
    ("duckdb", 'Runtime Error in model a (models/a.sql)\n  Catalog Error: Table with name "tt" already exists!', "relation_exists"),
    ("duckdb", ('Runtime Error in model a (models/a.sql)\n  Dependency Error: Cannot drop entry "s1" because there are entries that depend '
     "on it."), "dependent_objects"),
    ("duckdb", ("Runtime Error in model a (models/a.sql)\n  Binder Error: Set operations can only apply to expressions with the same number "
     "of result columns"), "column_count_mismatch"),
    ("duckdb", "Runtime Error in model a (models/a.sql)\n  Binder Error: WHERE clause cannot contain aggregates!", "grouping_error"),
    ("duckdb", "Runtime Error in model a (models/a.sql)\n  Parser Error: syntax error at end of input", "syntax_error"),
    ("duckdb", "Runtime Error in model a (models/a.sql)\n  Invalid Input Error: boom", "database_error"),
    ("duckdb", "Runtime Error in model a (models/a.sql)\n  HTTP Error: HTTP GET error on 'https://x/y.parquet' (HTTP 503)", "connection_lost"),
    (
        "duckdb",
        (
            "Runtime Error in model a (models/a.sql)\n  FATAL Error: Failed: database has been invalidated because of a previous "
            "fatal error. The database must be restarted prior to being used again."
        ),
        "connection_lost",
    ),
    # DuckDB on a Postgres server: DuckLake's catalog
    ("duckdb", ('IO Error: Failed to attach DuckLake MetaData "lake" at path + "postgres:host=127.0.0.1 port=1 user=relay password=pgpw"'
     'Unable to connect to Postgres at "host=127.0.0.1": connection to server at "127.0.0.1", port 1 failed: Connection refused'),
     "connection_refused"),
    ("duckdb", ('IO Error: Unable to connect to Postgres at "host=h": connection to server at "h", port 5 failed: FATAL:  password '
     'authentication failed for user "relay"'), "authentication_failed"),
    # other warehouses, from their public documentation
    ("snowflake", ("Database Error in model a (models/a.sql)\n  000904 (42000): SQL compilation error: error line 2 at position 4\n"
     "  invalid identifier 'NMAE'"), "missing_column"),
    ("snowflake", ("Database Error in model a (models/a.sql)\n  002003 (42S02): SQL compilation error:\n  Object 'DB.S.ORDERS' does not exist "
     "or not authorized."), "missing_relation"),
    ("bigquery", "Database Error in model a (models/a.sql)\n  Unrecognized name: nmae; Did you mean name? at [3:5]", "missing_column"),
    ("bigquery", "Database Error in model a (models/a.sql)\n  Not found: Table p:d.orders was not found in location US", "missing_relation"),
    ("spark", ("Database Error in model a (models/a.sql)\n  [UNRESOLVED_COLUMN.WITH_SUGGESTION] A column or function parameter with name `nmae` "
     "cannot be resolved. Did you mean one of the following? [`name`, `id`]."), "missing_column"),
    ("mysql", "Database Error in model a (models/a.sql)\n  1205 (HY000): Lock wait timeout exceeded; try restarting transaction", "lock_timeout"),
    ("mysql", "Database Error in model a (models/a.sql)\n  2006 (HY000): MySQL server has gone away", "connection_lost"),
    ("sqlserver", "Database Error in model a (models/a.sql)\n  Transaction was deadlocked on lock resources with another process", "deadlock"),
    ("redshift", 'Database Error in model a (models/a.sql)\n  relation "dev.orders" does not exist', "missing_relation"),
    ("nosuchwarehouse", "Database Error in model a (models/a.sql)\n  whatever", "database_error"),
    # dbt
    ("duckdb", "Compilation Error\n  Documentation for 'model.small.orders' depends on doc 'nope'  which was not found", "missing_doc"),
    ("duckdb", "Compilation Error\n  Reached EOF without diagnosis a close tag for macro (searched from line 1)", "jinja_syntax"),
    ("duckdb", "Compilation Error in model orders (models/orders.sql)\n  maximum recursion depth exceeded", "macro_recursion"),
    ("duckdb", ("Compilation Error\n  Could not render {{ var('scenario') }}: Required var 'scenario' not found in config:\n"
     "  Vars supplied to <Configuration> = {}"), "undefined_variable"),
    ("duckdb", ("Parsing Error\n  Secret env vars are allowed only in profiles.yml or packages.yml. Found 'DBT_ENV_SECRET_X' referenced "
     "elsewhere."), "secret_env_var"),
    ("duckdb", "Runtime Error\n  outputs not specified in profile 'small'", "invalid_profile"),
    ("duckdb", "Runtime Error\n  Could not read selector file data: Runtime Error\n    Expected either 1 key", "invalid_selector"),
    ("duckdb", "Internal Error\n  No comparison run_results", "missing_state"),
    ("duckdb", ("Runtime Error in model a (models/a.py)\n  Materialization \"materialization_table_default\" only supports languages ['sql']; "
     'got "python"'), "unsupported_language"),
    ("duckdb", "Compilation Error\n  dbt found two macros with the name \"a\" in the namespace \"global\".", "duplicate_name"),
    ("duckdb", ("Breaking change to contract Error in model a (models/a.sql)\n  While comparing to previous project state, dbt detected a "
     "breaking change to an enforced contract."), "contract_breaking_change"),
    ("duckdb", "Dependency Error\n  Package dbt-labs/dbt_utilz was not found in the package index", "missing_package"),
    ("duckdb", "Dependency Error\n  git dependencies should contain exactly one version.", "dependency_error"),
    ("duckdb", "Parsing Error\n  test must be dict or str, got <class 'list'> (value [])", "parsing_error"),
    ("duckdb", "Internal Error\n  the node was not in the graph", "internal"),
    ("duckdb", "something altogether else", "internal"),
    ("duckdb", "", "internal"),
]  # fmt: skip


@pytest.mark.parametrize(("adapter", "text", "code"), TEXTS)
def test_text_alone_determines_code(adapter: str, text: str, code: str) -> None:
    info = classify(Failure(message=text, adapter=adapter))
    assert info.code == code
    assert info.category == ERROR_CODES[code].category.value
    assert info.retryable == (code in PASSING)
    assert info.suggested_fix


@pytest.mark.parametrize(
    ("adapter", "text", "code"), [case for case in TEXTS if case[0] in {"duckdb", "postgres"}]
)
def test_duckdb_and_postgres_texts_are_recognised_without_adapter(adapter: str, text: str, code: str) -> None:
    assert classify(Failure(message=text)).code == code


# exception, text that does not tell, code
CLASSES = [
    ("UndefinedColumn", "missing_column"), ("UndefinedTable", "missing_relation"), ("SyntaxError", "syntax_error"),
    ("UndefinedFunction", "missing_function"), ("DeadlockDetected", "deadlock"), ("LockNotAvailable", "lock_timeout"),
    ("SerializationFailure", "serialization_failure"), ("QueryCanceled", "query_canceled"), ("DiskFull", "disk_full"),
    ("AdminShutdown", "connection_lost"), ("CannotConnectNow", "server_unavailable"), ("UniqueViolation", "constraint_violation"),
    ("TooManyConnections", "too_many_connections"), ("InsufficientPrivilege", "permission_denied"),
    ("DivisionByZero", "division_by_zero"), ("OutOfMemoryException", "out_of_memory"), ("ParserException", "syntax_error"),
    ("InterruptException", "query_canceled"), ("ConstraintException", "constraint_violation"),
    ("ConnectionRefusedError", "connection_refused"), ("BrokenPipeError", "connection_lost"),
]  # fmt: skip


@pytest.mark.parametrize(("exception", "code"), CLASSES)
def test_driver_exception_class_determines_code_in_any_language(exception: str, code: str) -> None:
    text = "Database Error in model a (models/a.sql)\n  une erreur s'est produite"
    failure = Failure(
        message=text, exceptions=(*DATABASE, exception, "DatabaseError", "Error"), adapter="postgres"
    )
    info = classify(failure)
    assert (info.code, info.retryable) == (code, code in PASSING)
    assert info.message.startswith("model a: ")


@pytest.mark.parametrize(
    ("exceptions", "code", "error_class"),
    [
        (("RequiredVarNotFoundError", *COMPILATION), "undefined_variable", "DbtCompilationError"),
        (("EnvVarMissingError", *PARSING), "env_var_missing", "DbtCompilationError"),
        (("TargetNotFoundError", *COMPILATION), "missing_ref", "DbtCompilationError"),
        ((*COMPILATION, "TemplateSyntaxError", "TemplateError"), "jinja_syntax", "DbtCompilationError"),
        (("ContractError", *COMPILATION), "contract_violation", "DbtDataQualityError"),
        (("UnicodeDecodeError", "UnicodeError", "ValueError"), "invalid_encoding", "DbtCompilationError"),
        (("FailFastError", *RUNTIME), "fail_fast", "DbtCancelledError"),
        (("DbtUsageException",), "usage_error", "DbtUsageError"),
        (("KeyboardInterrupt",), "cancelled", "DbtCancelledError"),
        (("SoftTimeLimitExceeded",), "time_limit", "DbtTimeoutError"),
        (("WorkerLostError", "RelayError", "DbtError"), "worker_lost", "WorkerLostError"),
        (("BrokerUnavailableError", "RelayError"), "broker_unavailable", "BrokerUnavailableError"),
        (("InvalidMessageError", "RelayError"), "invalid_message", "InvalidMessageError"),
        (("MemoryError",), "out_of_memory", "DbtResourceError"),
        (("CompilationError",), "compilation_error", "DbtCompilationError"),
        (("ParsingError",), "parsing_error", "DbtCompilationError"),
        (("DependencyError",), "dependency_error", "DbtCompilationError"),
        (("DbtProjectError", "DbtConfigError"), "invalid_config", "DbtCompilationError"),
        (("ValidationError",), "invalid_config", "DbtCompilationError"),
        (("DbtInternalError",), "internal", "DbtExecutionError"),
        (("SomeDriversError", "DatabaseError"), "database_error", "DbtExecutionError"),
        (("SomethingElse",), "internal", "DbtExecutionError"),
    ],
)
def test_exception_class_determines_code_without_text(
    exceptions: tuple[str, ...], code: str, error_class: str
) -> None:
    info = classify(Failure(message="it went wrong", exceptions=exceptions))
    assert (info.code, info.error_class) == (code, error_class)
    assert type(exception_of(info)).__name__ == error_class


def test_jinja_error_is_not_a_database_error() -> None:
    text = "Compilation Error in model a (models/a.sql)\n  division by zero"
    info = classify(Failure(message=text, exceptions=(*COMPILATION, "ZeroDivisionError"), adapter="postgres"))
    assert (info.code, info.message) == ("compilation_error", "model a: division by zero")


def test_a_drivers_exception_under_a_compilation_error_does_not_count() -> None:
    text = "Compilation Error in model a (models/a.sql)\n  no"
    assert (
        classify(Failure(message=text, exceptions=(*COMPILATION, "SyntaxError"))).code == "compilation_error"
    )


def test_sql_and_data_in_a_message_do_not_determine_code() -> None:
    text = (
        'Database Error in model a (models/a.sql)\n  syntax error at or near "form"\n'
        "  LINE 3: form t where note = 'deadlock detected, Connection reset by peer'\n          ^"
    )
    assert classify(Failure(message=text, adapter="postgres")).code == "syntax_error"
    text = (
        'Database Error in model a (models/a.sql)\n  null value in column "x" of relation "a" violates not-null constraint\n'
        "  DETAIL:  Failing row contains (1, null, server closed the connection unexpectedly)."
    )
    info = classify(Failure(message=text, adapter="postgres"))
    assert (info.code, info.retryable) == ("constraint_violation", False)
    assert "x is null" in info.suggested_fix


# what a node is


@pytest.mark.parametrize(
    ("resource_type", "node", "code", "category"),
    [
        ("model", "model.shop.a", "missing_column", "database"),
        ("test", "test.shop.a.0a1b2c3d4e", "test_errored", "database"),
        ("unit_test", "unit_test.shop.m.a", "test_errored", "database"),
        ("snapshot", "snapshot.shop.a", "snapshot_error", "snapshot"),
        ("seed", "seed.shop.a", "seed_error", "database"),
        ("operation", "operation.shop.shop-on-run-end-0", "hook_failed", "database"),
        ("operation", "operation.shop.grant_all", "missing_column", "database"),
    ],
)
def test_sql_error_of_test_seed_snapshot_or_hook_has_its_own_code(
    resource_type: str, node: str, code: str, category: str
) -> None:
    text = 'Database Error\n  column "nmae" does not exist\n  HINT:  Perhaps you meant to reference the column "a.name".'
    info = classify(Failure(message=text, adapter="postgres", resource_type=resource_type, node=node))
    assert (info.code, info.category, info.node) == (code, category, node)
    assert 'column "nmae" does not exist' in info.message
    assert 'Did you mean "name"' in info.suggested_fix


@pytest.mark.parametrize("resource_type", ["test", "snapshot", "seed", "operation"])
def test_error_outside_the_sql_keeps_its_code_for_any_resource_type(resource_type: str) -> None:
    text = "Database Error\n  server closed the connection unexpectedly"
    node = f"{resource_type}.shop.shop-on-run-start-0"
    info = classify(Failure(message=text, adapter="postgres", resource_type=resource_type, node=node))
    assert (info.code, info.retryable) == ("connection_lost", True)


def test_error_that_dbt_wrapped_keeps_its_node() -> None:
    """``dbt compile`` wraps the error of the node in another one (dbt.task.runnable)."""
    inner = (
        "Runtime Error in model a (models/a.sql)\n  Catalog Error: Table with name nowhere does not exist!"
    )
    info = classify(Failure(message="Runtime Error\n" + indent(inner, "  "), command="compile"))
    assert (info.code, info.file) == ("missing_relation", "models/a.sql")
    assert info.message == 'model a: table or view "nowhere" does not exist'


def test_hook_is_named_by_its_index() -> None:
    text = 'shop.on-run-end.2 failed, error:\n relation "audit" does not exist\nLINE 3: insert into audit select 1\n        ^'
    info = classify(Failure(message=text, adapter="postgres", resource_type="operation"))
    assert info.message == 'hook on-run-end 3: table or view "audit" does not exist'
    assert (info.code, info.file) == ("hook_failed", "dbt_project.yml")
    assert "dbt_project.yml, hook on-run-end 3" in info.suggested_fix


def test_hook_with_unknown_error() -> None:
    info = classify(Failure(message="shop.on-run-start.0 failed, error:\n no", resource_type="operation"))
    assert (info.code, info.suggested_fix) == (
        "hook_failed",
        "Correct dbt_project.yml, hook on-run-start 1 as the database's message says.",
    )


PYTHON = """\
Runtime Error in model p (models/p.py)
  Python model failed:
  Traceback (most recent call last):
    File "site-packages/dbt/adapters/duckdb/environments/__init__.py", line 286, in run_python_job
      df = module.model(dbt, con)
           ^^^^^^^^^^^^^^^^^^^^^^
    File "tmpnjc7gmen.py", line 2, in model
      return load()
             ^^^^^^
  {raised}
"""


def python_failure(raised: str) -> Failure:
    code = "def model(dbt, session):\n    return load()"
    return Failure(
        message=PYTHON.replace("{raised}", raised.replace("\n", "\n  ")), exceptions=RUNTIME, adapter="duckdb",
        node="model.shop.p", resource_type="model", language="python", file="models/p.py", raw_code=code,
        compiled_code=code,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        ("KeyError: 'sales'", "python_model_error", "model p: KeyError: 'sales'"),
        ("shop.errors.BadRateError: cola_rate is 7", "python_model_error", "model p: shop.errors.BadRateError: cola_rate is 7"),
        ("ModuleNotFoundError: No module named 'pandas.core'", "python_missing_package",
         "model p: Python package pandas is not installed"),
        ("MemoryError", "out_of_memory", "model p: memory ran out"),
        ("_duckdb.OutOfMemoryException: Out of Memory Error: failed to allocate", "out_of_memory", "model p: memory ran out"),
        ('_duckdb.IOException: IO Error: Could not set lock on file "a.duckdb": Resource temporarily unavailable',
         "duckdb_file_locked", "model p: another process has a.duckdb open"),
        (('duckdb.duckdb.BinderException: Binder Error: Referenced column "salry" not found in FROM clause!\n'
         'Candidate bindings: "salary"'), "python_model_error", 'model p: column "salry" does not exist'),
        ("_duckdb.InvalidInputException: Invalid Input Error: no such thing", "python_model_error",
         "model p: Invalid Input Error: no such thing"),
        # not the connection to the warehouse: it is not known whether the model may be executed twice
        ("requests.exceptions.ConnectionError: Connection refused", "python_model_error",
         "model p: requests.exceptions.ConnectionError: Connection refused"),
    ],
)  # fmt: skip
def test_a_python_model(raised: str, code: str, message: str) -> None:
    info = classify(python_failure(raised))
    assert (info.code, info.message, info.file, info.line) == (code, message, "models/p.py", 2)
    assert info.retryable == (code in PASSING)
    assert info.sql_excerpt is None


def test_traceback_of_other_code_has_no_line() -> None:
    failure = msgspec.structs.replace(
        python_failure("KeyError: 1"), raw_code="def model(dbt, session):\n    return 1"
    )
    assert classify(failure).line is None
    nothing = Failure(
        message="Runtime Error in model p (models/p.py)\n  Python model failed:\n  no traceback"
    )
    assert (classify(nothing).code, classify(nothing).line) == ("python_model_error", None)


def test_python_model_on_other_warehouse_is_known_by_language() -> None:
    failure = Failure(
        message="Database Error in model p (models/p.py)\n  100357: Python Interpreter Error", adapter="snowflake",
        language="python",
    )  # fmt: skip
    assert classify(failure).code == "python_model_error"


# statuses


def test_status_takes_precedence() -> None:
    failure = Failure(
        message="Got 3 results, configured to fail if >2", status="fail", resource_type="test",
        node="test.shop.not_null_orders_id.7bc0a8af64", file="models/shop.yml", failures=3, exceptions=("KeyError",),
    )  # fmt: skip
    info = classify(failure)
    assert (info.code, info.failures, info.retryable) == ("test_failed", 3, False)
    assert info.message == "test not_null_orders_id: Got 3 results, configured to fail if >2"
    assert info.suggested_fix.startswith(
        "`dbt-relay show --select not_null_orders_id` shows the 3 failing rows"
    )


def test_a_test_that_only_warns_says_so() -> None:
    info = classify(
        Failure(message="Got 1 result, configured to warn if != 0", status="warn", resource_type="test")
    )
    assert info.code == "test_failed"
    assert info.message.endswith("(a warning)")


def test_a_test_without_a_count() -> None:
    info = classify(Failure(message="", status="fail", resource_type="test", node="test.shop.t"))
    assert "shows the failing rows" in info.suggested_fix


def test_a_failed_unit_test() -> None:
    text = "\n\n\x1b[32mactual\x1b[0m differs from \x1b[31mexpected\x1b[0m:\n\n@@,id\n→ ,1\n"
    info = classify(
        Failure(message=text, status="fail", resource_type="unit_test", node="unit_test.shop.orders.u")
    )
    assert (info.code, info.message) == (
        "unit_test_failed",
        "unit_test u: the model returned other rows than expected",
    )
    assert info.detail.startswith("actual differs from expected:")
    assert "dbt-relay test --select u" in info.suggested_fix


def test_batches() -> None:
    some = classify(Failure(message="PARTIAL SUCCESS (2/3)", status="partial success", node="model.shop.m"))
    assert (some.code, some.message) == ("batches_failed", "model m: 2 of 3 batches succeeded")
    none = classify(Failure(message="ERROR", status="error", node="model.shop.m"))
    assert (none.code, none.message) == ("batches_failed", "model m: none of its batches succeeded")
    assert "dbt-relay retry" in none.suggested_fix


def test_stale_source_and_source_whose_freshness_failed() -> None:
    stale = Failure(
        message="", status="error", command="source", resource_type="source", node="source.shop.raw.orders"
    )
    assert classify(stale).code == "source_stale"
    text = 'Database Error in source orders (models/shop.yml)\n  relation "raw.orders" does not exist'
    broken = msgspec.structs.replace(stale, message=text, status="runtime error", adapter="postgres")
    assert classify(broken).code == "missing_relation"
    assert classify(msgspec.structs.replace(stale, status="warn")).code == "source_stale"


def test_a_cancelled_node() -> None:
    assert classify(Failure(message="stopped", status="cancelled")).category == "cancelled"


# what to do


def missing(relation: str, **facts: object) -> str:
    text = f'Database Error in model a (models/a.sql)\n  relation "dev.{relation}" does not exist'
    failure = Failure(message=text, adapter="postgres")
    return classify(msgspec.structs.replace(failure, **facts)).suggested_fix


def test_fix_of_missing_relation_names_node_to_build_first() -> None:
    known = (
        "model.shop.stg_orders",
        "seed.shop.rates",
        "snapshot.shop.history",
        "source.shop.raw.events",
        "orders_v",
    )
    assert missing("stg_orders", known_names=known) == "Build it first: `dbt-relay run --select +stg_orders`."
    assert missing("rates", known_names=known) == "Load the seed first: `dbt-relay seed --select rates`."
    assert (
        missing("history", known_names=known)
        == "Take the snapshot first: `dbt-relay snapshot --select history`."
    )
    assert missing("events", known_names=("source.shop.events",)).startswith("Load the table of source")
    assert missing("orders_v", known_names=known) == "Build it first: `dbt-relay run --select +orders_v`."
    assert missing("stg_new", raw_code="select * from {{ ref('shop', 'stg_new') }}").startswith(
        "Build it first"
    )


def test_fix_of_missing_source_relation_is_to_load_it() -> None:
    fix = missing("events", raw_code="select * from {{ source('raw', 'events') }}", known_names=("events",))
    assert fix.startswith("Load the table of source raw.events first")


def test_fix_of_missing_relation_proposes_similar_name() -> None:
    fix = missing("stg_ordres", known_names=("model.shop.stg_orders", "model.shop.customers"))
    assert fix.startswith("Did you mean 'stg_orders'? Use ref('stg_orders') in models/a.sql")
    assert "or create zzz first" in missing("zzz", known_names=("model.shop.stg_orders",))


def test_fix_of_missing_ref_proposes_similar_names() -> None:
    text = "Compilation Error\n  Model 'model.shop.a' (models/a.sql) depends on a node named 'custmers' which was not found"
    info = classify(Failure(message=text, known_names=("customers", "customer_totals", "orders")))
    assert info.suggested_fix.startswith("Did you mean 'customers' or 'customer_totals'?")
    assert (info.node, info.file, info.message) == (
        "model.shop.a",
        "models/a.sql",
        "model a: no node named 'custmers'",
    )


def test_fix_of_missing_metric_proposes_no_model() -> None:
    text = "Compilation Error\n  Model 'model.shop.a' (models/a.sql) depends on a metric named 'x' which was not found"
    assert (
        classify(Failure(message=text)).suggested_fix
        == "Correct the reference to metric 'x' in models/a.sql."
    )


def test_fix_of_missing_source_proposes_similar_name() -> None:
    text = "Compilation Error\n  Model 'model.shop.a' (models/a.sql) depends on a source named 'raw.ordrs' which was not found"
    fix = classify(Failure(message=text, known_names=("source.shop.raw.orders",))).suggested_fix
    assert fix.startswith("Did you mean 'raw.orders'?")


def test_fix_of_missing_column_names_where_to_look() -> None:
    text = 'Database Error in model a (models/a.sql)\n  column "anual" does not exist'
    failure = Failure(message=text, adapter="postgres", raw_code="select anual from {{ ref('rates') }}")
    assert "`dbt-relay show --select rates --limit 1`" in classify(failure).suggested_fix
    alone = classify(msgspec.structs.replace(failure, raw_code=None)).suggested_fix
    assert alone == 'Correct "anual" in models/a.sql, or add the column to the table that it reads.'


def test_fix_has_both_columns_that_postgres_proposes() -> None:
    text = (
        'Database Error in model a (models/a.sql)\n  column "nam" does not exist\n'
        '  HINT:  Perhaps you meant to reference the column "a.name" or the column "b.names".'
    )
    assert (
        'Did you mean "name" (columns like it: names)?'
        in classify(Failure(message=text, adapter="postgres")).suggested_fix
    )


@pytest.mark.parametrize(
    ("adapter", "text"),
    [
        ("bigquery", "Unrecognized name: nmae; Did you mean name? at [3:5]"),
        ("spark", ("[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column with name `nmae` cannot be resolved. Did you mean one of "
                  "the following? [`id`, `t`.`name`].")),
    ],
)  # fmt: skip
def test_other_warehouses_propose_columns_too(adapter: str, text: str) -> None:
    message = f"Database Error in model a (models/a.sql)\n  {text}"
    assert 'Did you mean "name"' in classify(Failure(message=message, adapter=adapter)).suggested_fix


def test_excerpt_marks_column_by_name() -> None:
    text = 'Database Error in model a (models/a.sql)\n  column "nmae" does not exist'
    info = classify(Failure(message=text, adapter="postgres", compiled_code="select\n  nmae\nfrom t"))
    assert (info.line, info.sql_excerpt) == (2, "  1 | select\n> 2 |   nmae\n    |   ^\n  3 | from t")


@pytest.mark.parametrize(
    ("text", "code", "message", "part"),
    [
        ("'None' has no attribute 'get'", "undefined_attribute", "None has no attribute or element get", "value that is None"),
        (
            "'dict object' has no attribute 'sells'", "undefined_attribute",
            "dict object has no attribute or element sells", "Correct 'sells'",
        ),
        ("list object has no element 3", "undefined_attribute", "list object has no attribute or element 3", "'3'"),
        ("parameter 'rate' was not provided", "compilation_error", "parameter 'rate' was not provided", ""),
        ("'rat' is undefined", "undefined_macro", "'rat' is undefined", "rat"),
    ],
)  # fmt: skip
def test_undefined_error_of_jinja_names_what_is_undefined(
    text: str, code: str, message: str, part: str
) -> None:
    whole = f"Compilation Error in model a (models/a.sql)\n  {text}\n"
    error = classify(Failure(message=whole, exceptions=("UndefinedMacroError", "CompilationError")))
    assert error.code == code
    assert error.message.endswith(message)
    assert part in (error.suggested_fix or "")
    assert "<name>" not in f"{error.message} {error.suggested_fix}"


def test_an_undefined_name() -> None:
    def fix(name: str, code: str = "") -> str:
        text = f"Compilation Error in model a (models/a.sql)\n  '{name}' is undefined. This can happen"
        return classify(Failure(message=text, raw_code=code)).suggested_fix

    assert fix("reff", "{{ reff('a') }}").startswith("Did you mean 'ref'")
    assert fix("test_not_nul").startswith("Did you mean 'not_null'? There is no generic test 'not_nul'")
    assert "list it in packages.yml and run `dbt-relay deps`" in fix("dbt_utils", "{{ dbt_utils.star() }}")
    assert fix("zzzz").startswith("Correct the name in models/a.sql")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (("Compilation Error in model a (models/a.sql)\n  Unexpected end of template. Jinja was looking for the following tags: 'endif'. The "
         "innermost block that needs to be closed is 'if'.\n    line 2\n      {% if true %}"), "{% if %} block with {% endif %} in models/a.sql, line 2"),
        ("Compilation Error in model a (models/a.sql)\n  unexpected char '`' at 12\n    line 2\n      {{ `a` }}",
         "Correct the Jinja in models/a.sql, line 2."),
        ("Parsing Error\n  Error reading shop: s.yml - Runtime Error\n    Syntax error near line 2\n    while scanning a quoted scalar",
         "quotation mark"),
        ("Runtime Error\n  Syntax error near line 2\n  mapping values are not allowed here", "the YAML file that dbt names near line 2"),
        ("Compilation Error\n  Duplicate 'name' key found in yaml file: Syntax error near line 7, duplicate", "same key occurs twice"),
        ("Runtime Error\n  Could not find selector named n, expected one of []", "selectors.yml defines no selector."),
        ("Runtime Error\n  Invalid node spec @a+ - \"@\" prefix and \"+\" suffix are incompatible", "Correct @a+ in --select"),
        ("Runtime Error\n  dbt cannot run because no profile was specified for this dbt project.", "`profile: <name>`"),
        ("Runtime Error\n  The profile 'p' does not have a target named 'x'. The valid target names for this profile are:\n   - dev\n   - prod",
         "(targets: dev, prod)"),
        ("Runtime Error\n  The profile 'p' does not have a target named 'x'. The valid target names for this profile are:",
         "Use an existing target"),
        ("Runtime Error\n  outputs not specified in profile 'p'", "Correct target <target> of profile p in profiles.yml."),
        ("Compilation Error\n  dbt found two models with the name \"a\".", "Rename or remove one of the two."),
        (("Compilation Error\n  dbt found two data_tests with the name \"t\" defined on column\n  - test.shop.t (models/s.yml)\n"
         "  - test.shop.t (models/s.yml)"), "Rename or remove one of the two in models/s.yml."),
        (("Dependency Error\n  Could not find a matching compatible version for package a/b\n  Requested range: =1.0\n"
         "  Compatible versions: ['1.1', '1.2']"), "['1.1', '1.2']"),
        ("Compilation Error in snapshot s (snapshots/s.yml)\n  The specified strategy macro 'chek' was not found in package 'None'",
         "Use strategy 'check' (timestamp or check) in snapshots/s.yml."),
        ("Compilation Error\n  Snapshot target is not a snapshot table (missing \"dbt_scd_id\")", "Correct the snapshot's configuration."),
        ("Compilation Error in seed s (seeds/s.csv)\n  value was undefined because a callable raised a StopIteration exception",
         "header in the first line"),
        ("Compilation Error in model a (models/a.sql)\n  This model has an enforced contract, and its 'columns' specification is missing",
         "under columns: in the YAML of model a"),
        (("Compilation Error in model a (models/a.sql)\n  The source and target schemas on this incremental model are out of sync!\n"
         "     Source columns not in target: []\n     Target columns not in source: [<Column old (text)>]"), "(gone: old)"),
        ("Runtime Error in model a (models/a.sql)\n  Constraint Error: something else", "rows that break the constraint"),
        ("Runtime Error in model a (models/a.sql)\n  Parser Error: unterminated quoted string at or near \"'abc\"", "Close the quotation mark"),
        ("Runtime Error in model a (models/a.sql)\n  Parser Error: syntax error at end of input", "is incomplete"),
        ("Database Error in model a (models/a.sql)\n  syntax error at or near \";\"\n  LINE 14:   );\n              ^", "is incomplete"),
        (("Runtime Error in model a (models/a.sql)\n  Catalog Error: Scalar Function with name annualize does not exist!\n"
         '  Did you mean "annualise"?'), "Did you mean 'annualise'?"),
        ("Runtime Error in model a (models/a.sql)\n  Binder Error: Referenced table \"x\" not found!\n  Candidate tables: \"orders\"",
         "Available: orders. Add x to FROM"),
        ("Database Error in model a (models/a.sql)\n  missing FROM-clause entry for table \"x\"", "Add x to FROM"),
        ("Database Error in model a (models/a.sql)\n  MERGE command cannot affect row a second time", "same unique_key"),
        ("Database Error in model a (models/a.sql)\n  permission denied for schema dev", "grant usage, create on schema dev"),
        ("Database Error in model a (models/a.sql)\n  permission denied for database dev", "on database dev"),
        ("IO Error: Cannot open file \"/data/x.duckdb\": Permission denied", "access to /data/x.duckdb"),
        ("Runtime Error in model a (models/a.sql)\n  Permission Error: no", "Grant the required privilege to the profile's user, or"),
        ("Runtime Error\n  no pg_hba.conf entry for host \"h\"", "Correct user and password in profiles.yml"),
        ("IO Error: Could not set lock on file \"x.duckdb\": busy", "Close the program that has x.duckdb open."),
        ("Database Error in model a (models/a.sql)\n  out of memory", "Give the database or the worker more memory"),
        ("Database Error in model a (models/a.sql)\n  could not extend file: No space left on device", "Free disk space"),
        ("[Errno 28] No space left on device: '/project/target/manifest.json'", "for /project/target/manifest.json on the worker"),
        ("[Errno 28] No space left on device", "for the target folder on the worker"),
        ("Database Error in model a (models/a.sql)\n  \"orders\" is not a view", "--full-refresh --select a"),
        ("Compilation Error\n  oh no", "`dbt-relay parse`"),
        ("Found a cycle: ", "of the cycle."),
        ("Found a cycle: model.shop.a --> model.shop.b", "a → b → a"),
        ("Runtime Error in model a (models/a.sql)\n  Constraint Error: NOT NULL constraint failed: a__dbt_tmp.salary", "salary is null"),
        ("Runtime Error in model a (models/a.sql)\n  Constraint Error: PRIMARY KEY or UNIQUE constraint violation: duplicate key \"1\"",
         "Key 1 occurs more than once"),
        (("Runtime Error in model a (models/a.sql)\n  Constraint Error: CHECK constraint failed on table a with expression "
         "CHECK((salary >= 0))"), "break salary >= 0"),
        (("Runtime Error in model a (models/a.sql)\n  Constraint Error: Violates foreign key constraint because key \"id: 999\" does not "
         "exist in the referenced table"), "Key id: 999 is not in the parent table"),
        (("Compilation Error in model a (models/a.sql)\n  This model has an enforced contract that failed.\n\n"
         "  | column_name | definition_type | contract_type | mismatch_reason       |\n"
         "  | ----------- | --------------- | ------------- | --------------------- |\n"
         "  | active      | BOOLEAN         |               | missing in contract   |\n"
         "  | department  |                 | VARCHAR       | missing in definition |\n"
         "  | salary      | VARCHAR         | INTEGER       | data type mismatch    |"),
         "leave active out, or add it to the contract as BOOLEAN; select department (VARCHAR); cast salary to INTEGER (it is VARCHAR)."),
        ("Compilation Error in seed ragged (seeds/ragged.csv)\n  Row 1 has 3 values, but Table only has 2 columns.",
         "seeds/ragged.csv, line 3"),
        (("Runtime Error in seed s (seeds/s.csv)\n  Conversion Error: CSV Error on Line: 3\n  Original Line: 2,ninety\n"
         "  Error when converting column \"salary\". Could not convert string \"ninety\" to 'INTEGER'"),
         "Correct 'ninety' in column salary of seeds/s.csv, line 3"),
        ("Compilation Error in snapshot s (snapshots/s.yml)\n  Snapshot target is missing configured columns (missing \"dbt_scd_id\"). See",
         "was not created by a snapshot"),
        ("A snapshot configured with the timestamp strategy must specify an updated_at configuration.", "Set updated_at"),
        (("Compilation Error in model employees (models/models.yml)\n  Invalid column name: 'salry' in unit test fixture for 'employees'.\n"
         "  Accepted columns for 'employees' are: ['employee_id', 'salary']"), "Did you mean 'salary'? Correct 'salry' in the given rows"),
        ("Compilation Error in model orders (models/orders.sql)\n  Encountered unknown tag 'esle'.\n    line 3\n      {% esle %}",
         "Did you mean 'else'"),
        (("Compilation Error in model orders (models/orders.sql)\n  expected token 'end of print statement', got 'from'\n    line 3\n"
         "      from x"), "Close the {{ … }} that is open in models/orders.sql, line 3"),
        (("Parsing Error\n  Error reading small: s.yml - Runtime Error\n    Syntax error near line 2\n    found character that cannot start "
         "any token"), "YAML allows no tabs"),
        ("Parsing Error\n  Error reading small: s.yml - Runtime Error\n    Syntax error near line 3\n    did not find expected '-' indicator",
         "Correct s.yml near line 3: entries of the same level need the same indentation."),
        ("Parsing Error\n  at path ['enabled']: 'maybe' is not of type 'boolean'", "Correct enabled in the project: 'maybe' is not"),
        ("Runtime Error\n  Could not find profile named 'smal'", "profile 'smal' to profiles.yml"),
        ("Runtime Error\n  'tagg' is not a valid method name", "Did you mean 'tag'?"),
        (("Compilation Error in model orders (models/orders.sql)\n  No materialization 'tabel' was found for adapter duckdb! (searched types "
         "'default' and 'duckdb')"), "Did you mean 'table'?"),
        (("Compilation Error\n  Model 'model.small.orders' (models/orders.sql) depends on a node named 'customers' with version '2' which "
         "was not found"), "Add version 2 to the versions of customers"),
        (("Compilation Error in model h (models/h.sql)\n  dbt was unable to infer all dependencies for the model \"h\".\n"
         "  To fix this:\n\n  -- depends_on: {{ ref('stg_payroll') }}"), "Add `-- depends_on: {{ ref('stg_payroll') }}` at the top"),
        (("Runtime Error\n  No dbt_project.yml found at expected path /data/nowhere/dbt_project.yml\n  Verify that each entry within "
         "packages.yml (and their transitive dependencies) contains a file named dbt_project.yml"), "Correct /data/nowhere in packages.yml"),
        ("Runtime Error\n  Conversion Error: Could not convert string 'Ada' to INT32 when casting from source column name",
         "values such as 'Ada' in column name"),
        ("Database Error in model a (models/a.sql)\n  more than one row returned by a subquery used as an expression", "return one row"),
        ("Runtime Error\n  max_temp_directory_size", "Raise max_temp_directory_size"),
        ("Runtime Error\n  Out of Memory Error: failed to allocate; increase memory_limit", "Raise memory_limit"),
        ("Database Error\n  temporary file size exceeds \"temp_file_limit\" (1024kB)", "Raise temp_file_limit"),
        ("IO Error: Trying to read a database file with version number 999, but we can only read versions between 64 and 68.",
         "storage version 999, this one reads 64 to 68"),
        ("IO Error: Cannot open file \"/data/new/x.duckdb\": No such file or directory", "Create the folder of /data/new/x.duckdb"),
        ("Runtime Error in model a (models/a.sql)\n  IO Error: No files found that match the pattern \"in/*.csv\"", "Put the file at in/*.csv"),
        ("Runtime Error in model a (models/a.sql)\n  Catalog Error: Schema with name s does not exist!", "create schema s"),
        ("connection to server at \"db\", port 5432 failed: Connection refused", "Start the database at db, port 5432"),
        ("could not obtain lock on relation \"orders\"", "holds the lock on orders"),
        ("Got 1 result, configured to fail if != 0", "shows the failing rows"),
    ],
)  # fmt: skip
def test_the_suggested_fix_is_specific(text: str, part: str) -> None:
    assert part in classify(Failure(message=text)).suggested_fix


def test_the_message_is_one_short_sentence_and_the_detail_is_dbts_text() -> None:
    text = "Database Error in model a (models/a.sql)\n  " + "no " * 500
    info = classify(Failure(message=text))
    assert len(info.message) == 300
    assert info.message.startswith("model a: no no")
    assert info.message.endswith("…")
    assert info.detail == text.rstrip()
    assert len(classify(Failure(message="x" * 100_000)).detail) == 20_002


def test_a_usage_text_keeps_the_command() -> None:
    failure = Failure(message="No such option '--selct'.", exceptions=("DbtUsageException",), command="run")
    assert classify(failure).suggested_fix == "See `dbt-relay run --help`."


# secrets


def test_a_catalogue_race_is_known_from_its_class_and_its_index_alone() -> None:
    text = "Database Error\n  {}\n  DETAIL:  Key (nspname)=(racer) already exists."
    reason = 'duplicate key value violates unique constraint "{}"'
    exceptions = (*DATABASE, "UniqueViolation", "IntegrityError", "DatabaseError", "Error")
    codes = [
        classify(
            Failure(message=text.format(reason.format(index)), exceptions=exceptions, adapter="postgres")
        ).code
        for index in ("pg_namespace_nspname_index", "orders_pkey")
    ]
    assert codes == ["serialization_failure", "constraint_violation"]


def test_the_project_file_is_named_without_its_folder() -> None:
    text = (
        "Runtime Error\n  at path ['model-paths']: 'models' is not valid under any of the given schemas\n\n"
        "Error encountered in /home/u/shop/dbt_project.yml"
    )
    info = classify(Failure(message=text))
    assert (info.code, info.file) == ("invalid_config", "dbt_project.yml")
    assert info.suggested_fix.startswith("Correct model-paths in dbt_project.yml: 'models' is not valid")


def test_two_files_with_the_same_name_are_both_named() -> None:
    text = (
        'Compilation Error\n  dbt found two models with the name "orders".\n\n  To fix this, change the name of one of these '
        "resources:\n  - model.small.orders (models/a/orders.sql)\n  - model.small.orders (models/orders.sql)"
    )
    fix = classify(Failure(message=text)).suggested_fix
    assert fix == "Rename or remove one of the two: models/a/orders.sql or models/orders.sql."


def test_given_secrets_are_masked_in_all_but_the_sql() -> None:
    place = 'Database Error in model a (models/a.sql)\n  column "s3cr3t-t0ken" does not exist\n  LINE 2: from nowhere\n          ^'
    sql = "select 's3cr3t-t0ken' as t, password='x'\nfrom nowhere"
    info = classify(
        Failure(message=place, compiled_code=sql, adapter="postgres", secrets=("s3cr3t-t0ken", "Database"))
    )
    assert "s3cr3t" not in info.message + info.detail + (info.suggested_fix or "")
    assert info.code == "missing_column"
    assert info.sql_excerpt == "  1 | select 's3cr3t-t0ken' as t, password='x'\n> 2 | from nowhere\n    | ^"


def test_a_secret_is_masked_before_a_long_message_is_cut() -> None:
    secret = "s3cr3t" * 10
    info = classify(Failure(message=f"{'x' * 280} {secret}", secrets=(secret,)))
    assert info.message.endswith("x *****")


def test_text_that_resembles_a_credential_is_not_masked() -> None:
    text = "Could not convert string 'password=abc https://me:pw@host' to INT32 where token = b.token"
    info = classify(Failure(message=f"Database Error\n  Conversion Error: {text}", adapter="duckdb"))
    assert text in info.message
    assert text in info.detail


# the tables


def test_retryable_codes() -> None:
    assert {code for code, kind in ERROR_CODES.items() if kind.retryable} == PASSING


def test_every_code_has_a_fix_and_every_rule_a_code() -> None:
    assert set(FIXES) == set(ERROR_CODES)
    used = {rule.code for adapter in ("duckdb", "postgres") for rule in (*DBT_RULES, *sql_rules(adapter))}
    used |= {code for codes in (*DBT_EXCEPTIONS.values(), *SQL_EXCEPTIONS.values()) for code in codes}
    assert used <= set(ERROR_CODES)


def test_every_category_has_a_code() -> None:
    assert {kind.category for kind in ERROR_CODES.values()} == set(Category)


@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_every_fix_works_without_facts(code: str) -> None:
    """A driver's class may determine the code while its text, in another language, has no facts."""
    for name, codes in {**DBT_EXCEPTIONS, **SQL_EXCEPTIONS}.items():
        if codes == (code,):
            info = classify(Failure(message="Database Error\n  ?", exceptions=(name,)))
            assert info.code == code
            assert info.suggested_fix
            assert "None" not in info.suggested_fix
            assert "  " not in info.suggested_fix
            assert "{" not in info.message


@given(
    message=st.text(),
    exceptions=st.lists(st.sampled_from(sorted({**DBT_EXCEPTIONS, **SQL_EXCEPTIONS}))),
    status=st.sampled_from(["error", "fail", "warn", "partial success", "runtime error", "cancelled", "?"]),
    resource_type=st.sampled_from(
        ["model", "test", "unit_test", "seed", "snapshot", "operation", "source", ""]
    ),
    code=st.text(),
)
def test_any_failure_can_be_classified(
    message: str, exceptions: list[str], status: str, resource_type: str, code: str
) -> None:
    failure = Failure(
        message=message, exceptions=tuple(exceptions), status=status, resource_type=resource_type, raw_code=code,
        compiled_code=code, node=f"{resource_type}.shop.a",
    )  # fmt: skip
    info = classify(failure)
    assert info.code in ERROR_CODES
    assert info.message
    assert info.suggested_fix


@pytest.mark.parametrize(
    "piece",
    ["x", '"', "'", "a b ", "a\n", " ", '"a" ', "a: ", "a.", "a/", "http://a:", "(", "LINE 1: x\n", "[", "password ", "path '",
     "Model 'a.b' (c) ", "at path [", "function a(", "column a ", "Error: ", "Error in ", "06:21:32  ", "Failure in model a "],
)  # fmt: skip
def test_classification_of_any_text_is_fast(piece: str) -> None:
    text = piece * (20_000 // len(piece))
    began = time.process_time()
    classify(Failure(message=text, exceptions=("TargetNotFoundError",)))
    classify_text(text, text, 1)
    assert time.process_time() - began < 3


@given(stdout=st.text(), stderr=st.text(), return_code=st.integers(-64, 255))
def test_any_console_can_be_classified(stdout: str, stderr: str, return_code: int) -> None:
    assert classify_text(stdout, stderr, return_code).code in ERROR_CODES


@given(
    parts=st.lists(
        st.sampled_from(["06:21:32  ", "Failure in ", "test ", "t ", "(x)", "\n", "Got 1 result, configured to fail if != 0",
                         "Encountered an error:\n", "Traceback (most recent call last):\n", "ValueError: x", "Database Error",
                         " in model a (b)", "Usage: ", "Error: ", '{"info": {"msg": "x"}}', "LINE 1: ", "^"])
    )
)  # fmt: skip
def test_any_shuffled_console_can_be_classified(parts: list[str]) -> None:
    assert classify_text("".join(parts), "", 1).message
