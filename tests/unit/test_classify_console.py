"""Classification of console output. The texts were printed by dbt 1.11; paths are shortened."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from workers.contract.errors.classify import Failure, classify, classify_text
from workers.contract.errors.console_output import first_failure

NODES = """\
\x1b[0m06:21:25  Running with dbt=1.11.16
\x1b[0m06:21:26  Registered adapter: duckdb=1.11.1
\x1b[0m06:21:26  Found 38 models, 6 data tests, 3 seeds
\x1b[0m06:21:31  1 of 3 START sql table model main.missing_column ............................... [RUN]
\x1b[0m06:21:31  1 of 3 ERROR creating sql table model main.missing_column ...................... [\x1b[31mERROR\x1b[0m in 0.22s]
\x1b[0m06:21:32  \x1b[31mCompleted with 2 errors, 0 partial successes, and 0 warnings:\x1b[0m
\x1b[0m06:21:32  
\x1b[0m06:21:32  \x1b[31mFailure in model missing_column (models/sql/missing_column.sql)\x1b[0m
\x1b[0m06:21:32    Runtime Error in model missing_column (models/sql/missing_column.sql)
  Binder Error: Referenced column "nmae" not found in FROM clause!
  Candidate bindings: "name", "updated_at"
  
  LINE 12:     nmae,
               ^
\x1b[0m06:21:32  
\x1b[0m06:21:32    compiled code at target/compiled/errors/models/sql/missing_column.sql
\x1b[0m06:21:32  
\x1b[0m06:21:32  \x1b[31mFailure in test fails_not_null (models/models.yml)\x1b[0m
\x1b[0m06:21:32    Got 1 result, configured to fail if != 0
\x1b[0m06:21:32  
\x1b[0m06:21:32  Done. PASS=3 WARN=0 ERROR=2 SKIP=0 NO-OP=0 TOTAL=5
"""  # noqa: W291, W293

TEST = """\
06:21:32  Completed with 1 error, 0 partial successes, and 0 warnings:
06:21:32  
06:21:32  Failure in test fails_singular (tests/fails_singular.sql)
06:21:32    Got 2 results, configured to fail if != 0
06:21:32  
06:21:32  Done. PASS=3 WARN=0 ERROR=1 SKIP=0 NO-OP=0 TOTAL=4
"""  # noqa: W291

UNIT_TEST = """\
\x1b[0m06:21:32  \x1b[31mFailure in unit_test fails_unit_test (models/models.yml)\x1b[0m
\x1b[0m06:21:32    

\x1b[32mactual\x1b[0m differs from \x1b[31mexpected\x1b[0m:

\x1b[0;1m@@\x1b[0m\x1b[33m,\x1b[0m\x1b[0;1memployee_id\x1b[0m\x1b[33m,\x1b[0m\x1b[0;1mraised\x1b[0m

\x1b[0m06:21:32  Done. PASS=3 WARN=0 ERROR=2 SKIP=0 NO-OP=0 TOTAL=5
"""  # noqa: W291

HOOK = """\
06:03:19  Failure in operation errors-on-run-start-1 (./dbt_project.yml)
06:03:19    errors.on-run-start.1 failed, error:
 Binder Error: Referenced column "no_such_column_for_hook" not found in FROM clause!
Candidate bindings: "id"

LINE 2: select no_such_column_for_hook from (select 1 as id) as t
               ^
06:03:19  Done. PASS=1 WARN=0 ERROR=1 SKIP=1 NO-OP=0 TOTAL=3
"""

STALE = """\
06:03:49  1 of 1 ERROR STALE freshness of hr.employees ................................... [ERROR STALE in 0.08s]
06:03:49  Failure in source employees (models/sources.yml)
06:03:49    Status: error
06:03:49  Done.
"""

COMMAND = """\
06:16:27  Running with dbt=1.11.16
06:16:30  Encountered an error:
Compilation Error
  Model 'model.small.orders' (models/orders.sql) depends on a node named 'custmers' which was not found
"""

TRACEBACK = """\
\x1b[0m06:16:23  Encountered an error:
Found a cycle: model.small.orders --> model.small.customers
\x1b[0m06:16:23  Traceback (most recent call last):
  File "site-packages/dbt/compilation.py", line 212, in link_graph
    raise RuntimeError("Found a cycle: {}".format(cycle))
RuntimeError: Found a cycle: model.small.orders --> model.small.customers
"""

OPERATION = """\
06:04:15  Encountered an error while running operation: Runtime Error
  Binder Error: Referenced column "nothing_here" not found in FROM clause!
  Candidate bindings: "id"
"""

USAGE = """\
Usage: dbt run [OPTIONS]
Try 'dbt run --help' for help.

Error: No such option '--selct'. (Did you mean one of: '--help', '--select', '--selector'?)
"""


def test_the_first_failed_node_is_found() -> None:
    info = classify_text(NODES, "", 1)
    assert (info.code, info.category, info.file) == (
        "missing_column",
        "database",
        "models/sql/missing_column.sql",
    )
    assert info.message == 'model missing_column: column "nmae" does not exist'
    assert 'Did you mean "name"' in info.suggested_fix
    assert "\x1b" not in info.detail
    assert "06:21:32" not in info.detail


def test_a_failed_test_has_its_count() -> None:
    info = classify_text(TEST, "", 1)
    assert (info.code, info.failures, info.error_class) == ("test_failed", 2, "DbtDataQualityError")
    assert "the 2 failing rows" in info.suggested_fix


def test_a_failed_unit_test() -> None:
    info = classify_text(UNIT_TEST, "", 1)
    assert (info.code, info.file) == ("unit_test_failed", "models/models.yml")
    assert "actual differs from expected" in info.detail


def test_a_failed_hook() -> None:
    info = classify_text(HOOK, "", 1)
    assert (info.code, info.file) == ("hook_failed", "dbt_project.yml")
    assert "on-run-start 2" in info.message


def test_a_stale_source() -> None:
    assert classify_text(STALE, "", 1).code == "source_stale"


def test_error_that_aborts_a_command() -> None:
    info = classify_text(COMMAND, "", 2)
    assert (info.code, info.node, info.file) == ("missing_ref", "model.small.orders", "models/orders.sql")


def test_a_traceback_beside_the_error_does_not_matter() -> None:
    info = classify_text(TRACEBACK, "", 2)
    assert info.code == "dependency_cycle"
    assert "Traceback" not in info.detail


def test_a_failed_operation() -> None:
    assert classify_text(OPERATION, "", 1).code == "missing_column"


def test_usage_error_on_stderr() -> None:
    info = classify_text("", USAGE, 2)
    assert (info.code, info.error_class) == ("unknown_option", "DbtUsageError")
    assert info.suggested_fix == "Did you mean --select?"


def test_fix_of_unknown_command_has_dbts_proposal() -> None:
    output = "Usage: dbt [OPTIONS] [COMMAND] [ARGS]...\n\nError: No such command 'rnu'. Did you mean 'run'?\n"
    assert classify_text("", output, 2).suggested_fix == "Did you mean run?"


def test_a_project_that_is_not_there() -> None:
    output = "Usage: dbt run [OPTIONS]\n\nError: Invalid value for '--project-dir': Path 'nowhere' does not exist.\n"
    info = classify_text("", output, 2)
    assert (info.code, info.message) == ("no_project", "no dbt project at nowhere")


def test_lines_of_json() -> None:
    lines = [
        {"info": {"msg": "Running with dbt=1.11.16"}},
        {"info": {"msg": "\x1b[31mFailure in test t (tests/t.sql)\x1b[0m"}},
        {"info": {"msg": "  Got 4 results, configured to fail if != 0"}},
    ]
    info = classify_text("\n".join(json.dumps(line) for line in lines), "", 1)
    assert (info.code, info.failures) == ("test_failed", 4)


@pytest.mark.parametrize("line", ['{"info": 3}', "{not json", "[1]", '{"info": {"msg": 3}}'])
def test_invalid_json_lines_are_kept(line: str) -> None:
    info = classify_text(line, "", 1)
    assert (info.code, info.message) == ("internal", f"dbt ended with exit code 1: {line}")


def test_text_of_an_exception_is_classified() -> None:
    text = "Database Error in model trouble (models/trouble.sql)\n  deadlock detected\n"
    info = classify_text(text, "", 1, adapter="postgres")
    assert (info.code, info.retryable) == ("deadlock", True)
    assert classify_text("", text, 1).code == "deadlock"


def test_a_bare_traceback() -> None:
    output = (
        "Traceback (most recent call last):\n"
        '  File "x.py", line 1, in <module>\n'
        '_duckdb.IOException: IO Error: Could not set lock on file "a.duckdb": Conflicting lock is held in python '
        "(PID 7). See also https://duckdb.org/docs/stable/connect/concurrency\n"
    )
    info = classify_text("", output, 1)
    assert (info.code, info.retryable) == ("duckdb_file_locked", True)
    assert "PID 7" in info.suggested_fix


@pytest.mark.parametrize(
    ("return_code", "code", "category"),
    [
        (127, "dbt_not_found", "configuration"),
        (130, "cancelled", "cancelled"),
        (-2, "cancelled", "cancelled"),
        (143, "cancelled", "cancelled"),
        (-15, "cancelled", "cancelled"),
        (137, "process_killed", "resource"),
        (-9, "process_killed", "resource"),
        (1, "internal", "internal"),
        (0, "internal", "internal"),
    ],
)
def test_exit_code_determines_code_without_output(return_code: int, code: str, category: str) -> None:
    info = classify_text("", "", return_code)
    assert (info.code, info.category, info.retryable) == (code, category, False)
    assert info.message
    assert info.suggested_fix


def test_printed_failure_takes_precedence_over_exit_code() -> None:
    assert classify_text(TEST, "", 137).code == "test_failed"


def test_failure_header_without_text_is_ignored() -> None:
    assert classify_text("06:21:32  Failure in model a (models/a.sql)", "", 1).code == "internal"


def test_deeply_nested_json_is_kept_as_a_line() -> None:
    line = '{"a":' * 100_000
    failure = first_failure(f"Database Error\n  deadlock detected\n{line}", "")
    assert failure is not None
    assert failure.message.startswith("Database Error\n  deadlock detected")


def check_linear(work: Callable[[str], object], start: str, piece: str, size: int) -> None:
    """Check that eight times as much text takes less than 24 times as long. Quadratic work takes 64 times as long."""

    def seconds(characters: int) -> float:
        text = start + piece * (characters // len(piece)) + "x"
        times = []
        for _ in range(3):
            began = time.process_time()
            work(text)
            times.append(time.process_time() - began)
        return min(times)

    assert seconds(size) < 24 * seconds(size // 8)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        ("", "\n"),
        ("", "\r"),
        ("", "x"),
        ("", "ab "),
        ("", "\x1b[0m"),
        ("", "\x1b[0"),
        ("", "\x1b[0m\n"),
        ("", '{"a":'),
        ("", "Database Error "),
        ("", "Database Error\n  "),
        ("", "Database Error in model a ("),
        ("", "Database Error in model a (\n"),
        ("", "Error: a\n"),
        ("", "1 test failed "),
        ("Usage: dbt\n", "Error: a\n"),
        ("Traceback (most recent call last)\n", "a.AError\n"),
        ("Traceback (most recent call last)\n", "a."),
        ("12:00:00  Failure in model ", "a b "),
        ("12:00:00  Failure in model a (a)\n12:00:00  a\n", "a\n"),
    ],
)
def test_reading_console_output_takes_time_in_proportion_to_its_length(start: str, piece: str) -> None:
    check_linear(lambda text: first_failure(text, ""), start, piece, 1 << 20)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        ("Database Error\n  a", "\n"),
        ("Compilation Error\n  This model has an enforced contract\n", "\n"),
        ("Compilation Error\n  Error encountered in ", " "),
        ('Compilation Error\n  dbt found two macros named "x" (', "/"),
    ],
)
def test_classifying_a_message_takes_time_in_proportion_to_its_length(start: str, piece: str) -> None:
    check_linear(lambda text: classify(Failure(message=text)), start, piece, 16_000)
