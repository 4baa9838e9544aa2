"""Every code of a classified error: its category, whether it passes by itself, and its sentence.

A code is a promise: it may be added, never renamed. The sentence is filled in with what was found in
dbt's text; when something is missing there, dbt's own first line stands instead.

Retryable means that the same thing may succeed a moment later with nobody changing anything. A
wrong query, a failed test, a refused login or a full disk do not pass; neither does a statement
that ran into its time limit, which would take as long again.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from workers.contract.errors import Category


class Kind(NamedTuple):
    """What a code means."""

    category: Category
    title: str
    retryable: bool = False


_USAGE = Category.USAGE
_COMPILATION = Category.COMPILATION
_PARSING = Category.PARSING
_DEPENDENCY = Category.DEPENDENCY
_SELECTION = Category.SELECTION
_CONFIGURATION = Category.CONFIGURATION
_CONNECTION = Category.CONNECTION
_DATABASE = Category.DATABASE

KINDS: Final[dict[str, Kind]] = {
    # usage
    "unknown_command": Kind(_USAGE, "dbt has no command {name}"),
    "unknown_option": Kind(_USAGE, "no such option: {name}"),
    "invalid_vars": Kind(_USAGE, "--vars is not a valid YAML dictionary"),
    "usage_error": Kind(_USAGE, "{reason}"),
    "missing_state": Kind(_USAGE, "there is no earlier state to compare with or to defer to"),
    "missing_run_results": Kind(_USAGE, "there are no results of an earlier run"),
    "incompatible_state": Kind(_USAGE, "{path} was written by another release of dbt"),
    # compilation
    "missing_ref": Kind(_COMPILATION, "no {what} named '{name}'"),
    "disabled_ref": Kind(_COMPILATION, "ref('{name}') is disabled"),
    "private_ref": Kind(_COMPILATION, "{name} is {access} to {scope}"),
    "missing_source": Kind(_COMPILATION, "source '{name}' was not found"),
    "missing_doc": Kind(_COMPILATION, "doc('{name}') was not found"),
    "hidden_dependency": Kind(_COMPILATION, "dbt cannot see a ref() that is inside a condition"),
    "undefined_macro": Kind(_COMPILATION, "'{name}' is undefined"),
    "undefined_attribute": Kind(_COMPILATION, "{owner} has no attribute or element {name}"),
    "undefined_variable": Kind(_COMPILATION, "required var '{name}' has no value"),
    "macro_arguments": Kind(_COMPILATION, "macro {name} takes {rule}"),
    "macro_recursion": Kind(_COMPILATION, "a macro calls itself without an end"),
    "jinja_syntax": Kind(_COMPILATION, "{reason}"),
    "duplicate_name": Kind(_COMPILATION, "two resources have the same name: {name}"),
    "duplicate_relation": Kind(_COMPILATION, "two nodes write to the same relation {name}"),
    "missing_materialization": Kind(_COMPILATION, "no materialization '{name}' for {adapter}"),
    "warning_as_error": Kind(_COMPILATION, "a warning counts as an error: {reason}"),
    "compilation_error": Kind(_COMPILATION, "{reason}"),
    # parsing
    "yaml_syntax": Kind(_PARSING, "not valid YAML"),
    "invalid_properties": Kind(_PARSING, "{reason}"),
    "python_syntax": Kind(_PARSING, "dbt cannot read the Python model: {reason}"),
    "invalid_encoding": Kind(_PARSING, "a file is not UTF-8 text"),
    "parsing_error": Kind(_PARSING, "{reason}"),
    # dependency
    "dependency_cycle": Kind(_DEPENDENCY, "nodes depend on each other in a circle: {cycle}"),
    "deps_not_installed": Kind(_DEPENDENCY, "packages of this project are not installed"),
    "missing_package": Kind(_DEPENDENCY, "package {name} was not found"),
    "package_unreachable": Kind(_DEPENDENCY, "a package could not be downloaded", True),
    "invalid_packages": Kind(_DEPENDENCY, "packages.yml is malformed"),
    "dependency_error": Kind(_DEPENDENCY, "{reason}"),
    # selection
    "unknown_selector": Kind(_SELECTION, "no selector named {name}"),
    "invalid_selector": Kind(_SELECTION, "{reason}"),
    # configuration
    "invalid_config": Kind(_CONFIGURATION, "{reason}"),
    "env_var_missing": Kind(_CONFIGURATION, "environment variable {name} is not set"),
    "env_var_not_sent": Kind(_CONFIGURATION, "the value of {name} was not sent to the worker"),
    "file_access": Kind(_CONFIGURATION, "the worker may not write {path}: {problem}"),
    "secret_env_var": Kind(_CONFIGURATION, "secret {name} is used outside profiles.yml and packages.yml"),
    "no_project": Kind(_CONFIGURATION, "no dbt project at {path}"),
    "no_profile": Kind(_CONFIGURATION, "no profile named {name}"),
    "no_target": Kind(_CONFIGURATION, "profile {profile} has no target {name}"),
    "invalid_profile": Kind(_CONFIGURATION, "profile {profile}, target {target}: {reason}"),
    "missing_adapter": Kind(_CONFIGURATION, "no adapter for {name} is installed"),
    "missing_database": Kind(_CONFIGURATION, "database {database} does not exist"),
    "missing_loaded_at": Kind(_CONFIGURATION, "dbt cannot tell how old source table {name} is"),
    "missing_file": Kind(_CONFIGURATION, "no such file: {path}"),
    "missing_extension": Kind(_CONFIGURATION, "DuckDB extension {extension} is not installed"),
    "unsupported_language": Kind(_CONFIGURATION, "this warehouse does not run {name} models"),
    "dbt_version_mismatch": Kind(_CONFIGURATION, "{name} does not support the installed dbt"),
    "dbt_not_found": Kind(_CONFIGURATION, "the dbt command was not found"),
    "incompatible_database_version": Kind(_CONFIGURATION, "the database file is of another DuckDB version"),
    "invalid_database_file": Kind(_CONFIGURATION, "the database file cannot be read"),
    # connection
    "connection_refused": Kind(_CONNECTION, "nothing answers at {host}, port {port}", True),
    "connection_lost": Kind(_CONNECTION, "the database closed the connection", True),
    "connection_timeout": Kind(_CONNECTION, "the database did not answer in time", True),
    "dns_failure": Kind(_CONNECTION, "the name of host {host} could not be looked up just now", True),
    "unknown_host": Kind(_CONNECTION, "host {host} is not known"),
    "server_unavailable": Kind(_CONNECTION, "the database system is {state}", True),
    "too_many_connections": Kind(_CONNECTION, "the database takes no more connections", True),
    # lock contention
    "duckdb_file_locked": Kind(Category.LOCK, "another process has {path} open", True),
    "earlier_attempt_alive": Kind(Category.LOCK, "what is left of an earlier attempt does not end", True),
    "deadlock": Kind(Category.LOCK, "deadlock with another session", True),
    "serialization_failure": Kind(Category.LOCK, "another transaction changed the same thing", True),
    "lock_timeout": Kind(Category.LOCK, "another session holds a lock too long", True),
    # timeout
    "statement_timeout": Kind(Category.TIMEOUT, "the statement ran into the database's time limit"),
    "time_limit": Kind(Category.TIMEOUT, "the node ran into its time limit"),
    "deadline": Kind(Category.TIMEOUT, "the run did not end before its deadline"),
    # resource
    "out_of_memory": Kind(Category.RESOURCE, "memory ran out"),
    "disk_full": Kind(Category.RESOURCE, "disk space ran out"),
    "process_killed": Kind(Category.RESOURCE, "the dbt process was killed"),
    # permission
    "permission_denied": Kind(Category.PERMISSION, "permission denied for {object}"),
    "read_only": Kind(Category.PERMISSION, "the database is open read-only"),
    "authentication_failed": Kind(Category.PERMISSION, "the database refused the login"),
    # database
    "missing_column": Kind(_DATABASE, 'column "{column}" does not exist'),
    "missing_relation": Kind(_DATABASE, 'table or view "{relation}" does not exist'),
    "missing_schema": Kind(_DATABASE, 'schema "{schema}" does not exist'),
    "missing_function": Kind(_DATABASE, "function {function} does not exist"),
    "missing_table_alias": Kind(_DATABASE, 'table or alias "{table}" is not in the FROM clause'),
    "ambiguous_column": Kind(_DATABASE, 'column "{column}" is ambiguous'),
    "duplicate_column": Kind(_DATABASE, 'column "{column}" is there twice'),
    "column_count_mismatch": Kind(_DATABASE, "the numbers of columns differ"),
    "syntax_error": Kind(_DATABASE, "{reason}"),
    "grouping_error": Kind(_DATABASE, "{reason}"),
    "type_mismatch": Kind(_DATABASE, "{reason}"),
    "out_of_range": Kind(_DATABASE, "{reason}"),
    "division_by_zero": Kind(_DATABASE, "division by zero"),
    "cardinality_violation": Kind(_DATABASE, "{reason}"),
    "relation_exists": Kind(_DATABASE, "{relation} exists already"),
    "wrong_relation_type": Kind(_DATABASE, "{relation} is of another type than dbt expects"),
    "dependent_objects": Kind(_DATABASE, "other objects depend on what was to be dropped"),
    "transaction_aborted": Kind(_DATABASE, "an earlier statement of the transaction had failed"),
    "raised_error": Kind(_DATABASE, "{reason}"),
    "batches_failed": Kind(_DATABASE, "{done} of {total} batches succeeded"),
    "database_error": Kind(_DATABASE, "{reason}"),
    "hook_failed": Kind(_DATABASE, "{reason}"),
    "seed_error": Kind(_DATABASE, "{reason}"),
    "test_errored": Kind(_DATABASE, "{reason}"),
    # the data is not as it should be
    "test_failed": Kind(Category.DATA_QUALITY, "{found}"),
    "unit_test_failed": Kind(Category.DATA_QUALITY, "the model gave other rows than expected"),
    "contract_violation": Kind(Category.CONTRACT, "the model's columns are not those of its contract"),
    "contract_breaking_change": Kind(Category.CONTRACT, "the contract was broken since the compared state"),
    "constraint_violation": Kind(Category.CONTRACT, "{reason}"),
    "schema_change": Kind(Category.CONTRACT, "the columns of the incremental model have changed"),
    "source_stale": Kind(Category.FRESHNESS, "the source's data is older than allowed"),
    # nodes of their own kind
    "snapshot_error": Kind(Category.SNAPSHOT, "{reason}"),
    "python_model_error": Kind(Category.PYTHON_MODEL, "{exception}: {raised}"),
    "python_missing_package": Kind(Category.PYTHON_MODEL, "Python package {name} is not installed"),
    # the run, not dbt
    "cancelled": Kind(Category.CANCELLED, "cancelled"),
    "query_canceled": Kind(Category.CANCELLED, "somebody cancelled the query"),
    "fail_fast": Kind(Category.CANCELLED, "stopped because another node failed (--fail-fast)"),
    "worker_lost": Kind(Category.WORKER_LOST, "the worker died under it"),
    "broker_unavailable": Kind(Category.BROKER, "the broker could not be reached", True),
    "invalid_message": Kind(Category.MESSAGE, "{reason}"),
    "internal": Kind(Category.INTERNAL, "{reason}"),
}
"""Code → what it means."""
