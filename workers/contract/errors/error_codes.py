"""The error codes: category, message and whether a retry may succeed.

Codes may be added, never renamed: callers compare them. The placeholders of a message are filled with facts from
dbt's text. Where a fact is missing, the message is the first line of dbt's text instead.

An error is retryable if the same step may succeed a moment later with nothing changed. A wrong query, a failed
test, a refused login or a full disk are not retryable. Neither is a statement that ran into its time limit: it
would take as long again.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from workers.contract.errors import Category


class ErrorCode(NamedTuple):
    """The meaning of an error code."""

    category: Category
    template: str
    retryable: bool = False


_USAGE = Category.USAGE
_COMPILATION = Category.COMPILATION
_PARSING = Category.PARSING
_DEPENDENCY = Category.DEPENDENCY
_SELECTION = Category.SELECTION
_CONFIGURATION = Category.CONFIGURATION
_CONNECTION = Category.CONNECTION
_DATABASE = Category.DATABASE

ERROR_CODES: Final[dict[str, ErrorCode]] = {
    # usage
    "unknown_command": ErrorCode(_USAGE, "dbt has no command {name}"),
    "unknown_option": ErrorCode(_USAGE, "no such option: {name}"),
    "invalid_vars": ErrorCode(_USAGE, "--vars is not a valid YAML dictionary"),
    "usage_error": ErrorCode(_USAGE, "{reason}"),
    "missing_state": ErrorCode(_USAGE, "the state to compare with or to defer to does not exist"),
    "missing_run_results": ErrorCode(_USAGE, "there are no results of an earlier run"),
    "incompatible_state": ErrorCode(_USAGE, "{path} was written by another release of dbt"),
    # compilation
    "missing_ref": ErrorCode(_COMPILATION, "no {what} named '{name}'"),
    "disabled_ref": ErrorCode(_COMPILATION, "ref('{name}') is disabled"),
    "private_ref": ErrorCode(_COMPILATION, "{name} is {access} to {scope}"),
    "missing_source": ErrorCode(_COMPILATION, "source '{name}' was not found"),
    "missing_doc": ErrorCode(_COMPILATION, "doc('{name}') was not found"),
    "hidden_dependency": ErrorCode(
        _COMPILATION, "dbt does not see a ref() inside a condition when it parses"
    ),
    "undefined_macro": ErrorCode(_COMPILATION, "'{name}' is undefined"),
    "undefined_attribute": ErrorCode(_COMPILATION, "{owner} has no attribute or element {name}"),
    "undefined_variable": ErrorCode(_COMPILATION, "required var '{name}' has no value"),
    "macro_arguments": ErrorCode(_COMPILATION, "macro {name} takes {rule}"),
    "macro_recursion": ErrorCode(_COMPILATION, "a macro calls itself endlessly"),
    "jinja_syntax": ErrorCode(_COMPILATION, "{reason}"),
    "duplicate_name": ErrorCode(_COMPILATION, "two resources have the same name: {name}"),
    "duplicate_relation": ErrorCode(_COMPILATION, "two nodes write to the same relation {name}"),
    "missing_materialization": ErrorCode(_COMPILATION, "no materialization '{name}' for {adapter}"),
    "warning_as_error": ErrorCode(_COMPILATION, "dbt treats a warning as an error: {reason}"),
    "compilation_error": ErrorCode(_COMPILATION, "{reason}"),
    # parsing
    "yaml_syntax": ErrorCode(_PARSING, "not valid YAML"),
    "invalid_properties": ErrorCode(_PARSING, "{reason}"),
    "python_syntax": ErrorCode(_PARSING, "dbt cannot read the Python model: {reason}"),
    "invalid_encoding": ErrorCode(_PARSING, "a file is not UTF-8 text"),
    "parsing_error": ErrorCode(_PARSING, "{reason}"),
    # dependency
    "dependency_cycle": ErrorCode(_DEPENDENCY, "nodes depend on each other in a circle: {cycle}"),
    "deps_not_installed": ErrorCode(_DEPENDENCY, "packages of this project are not installed"),
    "missing_package": ErrorCode(_DEPENDENCY, "package {name} was not found"),
    "package_unreachable": ErrorCode(_DEPENDENCY, "a package could not be downloaded", True),
    "invalid_packages": ErrorCode(_DEPENDENCY, "packages.yml is malformed"),
    "dependency_error": ErrorCode(_DEPENDENCY, "{reason}"),
    # selection
    "unknown_selector": ErrorCode(_SELECTION, "no selector named {name}"),
    "invalid_selector": ErrorCode(_SELECTION, "{reason}"),
    # configuration
    "invalid_config": ErrorCode(_CONFIGURATION, "{reason}"),
    "env_var_missing": ErrorCode(_CONFIGURATION, "environment variable {name} is not set"),
    "env_var_not_sent": ErrorCode(_CONFIGURATION, "the value of {name} was not sent to the worker"),
    "file_access": ErrorCode(_CONFIGURATION, "the worker may not write {path}: {problem}"),
    "secret_env_var": ErrorCode(
        _CONFIGURATION, "secret {name} is used outside profiles.yml and packages.yml"
    ),
    "no_project": ErrorCode(_CONFIGURATION, "no dbt project at {path}"),
    "no_profile": ErrorCode(_CONFIGURATION, "no profile named {name}"),
    "no_target": ErrorCode(_CONFIGURATION, "profile {profile} has no target {name}"),
    "invalid_profile": ErrorCode(_CONFIGURATION, "profile {profile}, target {target}: {reason}"),
    "missing_adapter": ErrorCode(_CONFIGURATION, "no adapter for {name} is installed"),
    "missing_database": ErrorCode(_CONFIGURATION, "database {database} does not exist"),
    "missing_loaded_at": ErrorCode(_CONFIGURATION, "dbt cannot tell how old source table {name} is"),
    "missing_file": ErrorCode(_CONFIGURATION, "no such file: {path}"),
    "missing_extension": ErrorCode(_CONFIGURATION, "DuckDB extension {extension} is not installed"),
    "unsupported_language": ErrorCode(_CONFIGURATION, "this warehouse does not run {name} models"),
    "dbt_version_mismatch": ErrorCode(_CONFIGURATION, "{name} does not support the installed dbt"),
    "dbt_not_found": ErrorCode(_CONFIGURATION, "the dbt command was not found"),
    "incompatible_database_version": ErrorCode(
        _CONFIGURATION, "the database file is of another DuckDB version"
    ),
    "invalid_database_file": ErrorCode(_CONFIGURATION, "the database file cannot be read"),
    # connection
    "connection_refused": ErrorCode(_CONNECTION, "no server listens at {host}, port {port}", True),
    "connection_lost": ErrorCode(_CONNECTION, "the database closed the connection", True),
    "connection_timeout": ErrorCode(_CONNECTION, "the database did not answer in time", True),
    "dns_failure": ErrorCode(
        _CONNECTION, "the name server could not resolve host {host} at the moment", True
    ),
    "unknown_host": ErrorCode(_CONNECTION, "host {host} is unknown"),
    "server_unavailable": ErrorCode(_CONNECTION, "the database system is {state}", True),
    "too_many_connections": ErrorCode(_CONNECTION, "the database accepts no more connections", True),
    # lock contention
    "duckdb_file_locked": ErrorCode(Category.LOCK, "another process has {path} open", True),
    "earlier_attempt_alive": ErrorCode(
        Category.LOCK, "server processes of an earlier attempt do not end", True
    ),
    "deadlock": ErrorCode(Category.LOCK, "deadlock with another session", True),
    "serialization_failure": ErrorCode(Category.LOCK, "another transaction changed the same data", True),
    "lock_timeout": ErrorCode(Category.LOCK, "another session held a lock for too long", True),
    # timeout
    "statement_timeout": ErrorCode(Category.TIMEOUT, "the statement ran into the database's time limit"),
    "time_limit": ErrorCode(Category.TIMEOUT, "the node ran into its time limit"),
    "deadline": ErrorCode(Category.TIMEOUT, "the run did not end before its deadline"),
    # resource
    "out_of_memory": ErrorCode(Category.RESOURCE, "memory ran out"),
    "disk_full": ErrorCode(Category.RESOURCE, "disk space ran out"),
    "process_killed": ErrorCode(Category.RESOURCE, "the dbt process was killed"),
    # permission
    "permission_denied": ErrorCode(Category.PERMISSION, "permission denied for {object}"),
    "read_only": ErrorCode(Category.PERMISSION, "the database is open read-only"),
    "authentication_failed": ErrorCode(Category.PERMISSION, "the database refused the login"),
    # database
    "missing_column": ErrorCode(_DATABASE, 'column "{column}" does not exist'),
    "missing_relation": ErrorCode(_DATABASE, 'table or view "{relation}" does not exist'),
    "missing_schema": ErrorCode(_DATABASE, 'schema "{schema}" does not exist'),
    "missing_function": ErrorCode(_DATABASE, "function {function} does not exist"),
    "missing_table_alias": ErrorCode(_DATABASE, 'table or alias "{table}" is not in the FROM clause'),
    "ambiguous_column": ErrorCode(_DATABASE, 'column "{column}" is ambiguous'),
    "duplicate_column": ErrorCode(_DATABASE, 'column "{column}" occurs twice'),
    "column_count_mismatch": ErrorCode(_DATABASE, "the number of columns differs"),
    "syntax_error": ErrorCode(_DATABASE, "{reason}"),
    "grouping_error": ErrorCode(_DATABASE, "{reason}"),
    "type_mismatch": ErrorCode(_DATABASE, "{reason}"),
    "out_of_range": ErrorCode(_DATABASE, "{reason}"),
    "division_by_zero": ErrorCode(_DATABASE, "division by zero"),
    "cardinality_violation": ErrorCode(_DATABASE, "{reason}"),
    "relation_exists": ErrorCode(_DATABASE, "{relation} exists already"),
    "wrong_relation_type": ErrorCode(_DATABASE, "{relation} is of another type than dbt expects"),
    "dependent_objects": ErrorCode(_DATABASE, "other objects depend on the object to drop"),
    "transaction_aborted": ErrorCode(_DATABASE, "an earlier statement of the transaction had failed"),
    "raised_error": ErrorCode(_DATABASE, "{reason}"),
    "batches_failed": ErrorCode(_DATABASE, "{done} of {total} batches succeeded"),
    "database_error": ErrorCode(_DATABASE, "{reason}"),
    "hook_failed": ErrorCode(_DATABASE, "{reason}"),
    "seed_error": ErrorCode(_DATABASE, "{reason}"),
    "test_errored": ErrorCode(_DATABASE, "{reason}"),
    # data quality
    "test_failed": ErrorCode(Category.DATA_QUALITY, "{found}"),
    "unit_test_failed": ErrorCode(Category.DATA_QUALITY, "the model returned other rows than expected"),
    "contract_violation": ErrorCode(Category.CONTRACT, "the model's columns are not those of its contract"),
    "contract_breaking_change": ErrorCode(
        Category.CONTRACT, "the model breaks the contract that it has in the compared state"
    ),
    "constraint_violation": ErrorCode(Category.CONTRACT, "{reason}"),
    "schema_change": ErrorCode(Category.CONTRACT, "the columns of the incremental model have changed"),
    "source_stale": ErrorCode(Category.FRESHNESS, "the source's data is older than allowed"),
    # snapshots and Python models
    "snapshot_error": ErrorCode(Category.SNAPSHOT, "{reason}"),
    "python_model_error": ErrorCode(Category.PYTHON_MODEL, "{exception}: {raised}"),
    "python_missing_package": ErrorCode(Category.PYTHON_MODEL, "Python package {name} is not installed"),
    # the run, the worker, the broker
    "cancelled": ErrorCode(Category.CANCELLED, "cancelled"),
    "query_canceled": ErrorCode(Category.CANCELLED, "the query was cancelled"),
    "fail_fast": ErrorCode(Category.CANCELLED, "stopped because another node failed (--fail-fast)"),
    "worker_lost": ErrorCode(Category.WORKER_LOST, "the worker process died while it executed this"),
    "broker_unavailable": ErrorCode(Category.BROKER, "the broker cannot be reached", True),
    "invalid_message": ErrorCode(Category.MESSAGE, "{reason}"),
    "internal": ErrorCode(Category.INTERNAL, "{reason}"),
}
"""Code → its meaning."""
