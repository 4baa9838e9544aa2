"""Whole commands, executed with dbt's programmatic interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from tests.support.engine import Shared, drive, spec_for
from workers.contract.events import LINE, Event
from workers.engine.engine import Engine
from workers.engine.interface import Finished
from workers.engine.warehouse.concurrency import close_warehouse

Copy = Callable[..., Path]


@pytest.fixture
def small(copy_project: Copy, duckdb_file: Path) -> Iterator[Path]:
    yield copy_project("small")
    close_warehouse()


def run(project: Path, *args: str) -> tuple[Finished, list[str]]:
    events: list[Event] = []
    command = next(word for word in args if not word.startswith("-"))
    finished = Engine(Shared()).command(spec_for(project, *args), command, events.append)
    return finished, [event.text for event in events if event.kind == LINE]


def test_list_command_has_no_results(small: Path) -> None:
    finished, lines = run(small, "ls", "--resource-type", "model", "--output", "name")
    assert (finished.return_code, finished.results, finished.run_results) == (0, [], None)
    assert lines[-3:] == ["customer_totals", "orders_by_year", "stg_orders"]


def test_seed_show_prints_the_seeds(small: Path) -> None:
    project, _, _ = (small / "dbt_project.yml").read_text().partition("on-run-start:")
    (small / "dbt_project.yml").write_text(project)  # dbt fails to show seeds in a project with hooks
    finished, lines = run(small, "seed", "--show")
    assert finished.return_code == 0
    assert any("| order_id" in line.replace("|  ", "| ") for line in lines), lines
    assert finished.run_results is not None
    assert [each.status for each in finished.results if each.resource_type == "seed"] == ["success"]


def test_failed_node_has_a_classified_error(small: Path) -> None:
    # no seed ran, so its table is missing
    finished, _ = run(small, "run", "--select", "stg_orders", "orders_by_year")
    assert finished.return_code == 1
    (failed,) = [each for each in finished.results if each.status == "error"]
    assert failed.error is not None
    assert failed.error.node == "model.small.orders_by_year"
    assert failed.error.code == "missing_relation"


def test_failed_operation_has_an_error(small: Path) -> None:
    finished, lines = run(small, "run-operation", "no_such_macro")
    assert finished.return_code != 0
    assert finished.error is not None or any(each.error for each in finished.results)
    assert any("no_such_macro" in line for line in lines)


def test_refused_arguments_are_a_usage_error(small: Path) -> None:
    finished, lines = run(small, "compile", "--no-such-flag")
    assert finished.return_code == 2
    assert finished.error is not None
    assert finished.error.code == "unknown_option"
    assert "no-such-flag" in finished.error.message
    assert lines == []  # click prints it on stderr


def test_failed_connection_test_contains_the_warehouses_error(small: Path) -> None:
    text = (small / "profiles.yml").read_text()
    (small / "profiles.yml").write_text(
        text.replace("env_var('RELAY_TEST_DUCKDB', 'small.duckdb')", "'/no/such/folder/small.duckdb'")
    )
    finished, _ = run(small, "debug")
    assert finished.return_code != 0
    assert finished.error is not None
    assert "/no/such/folder" in finished.error.message + finished.error.detail


def test_stale_source_is_an_error(small: Path) -> None:
    run(small, "seed")
    (small / "models" / "sources.yml").write_text(
        "sources:\n"
        "  - name: raw\n"
        "    schema: main\n"
        "    tables:\n"
        "      - name: raw_orders\n"
        "        config:\n"
        "          loaded_at_query: select timestamp '2001-01-01 00:00:00'\n"
        "          freshness: {error_after: {count: 1, period: hour}}\n"
    )
    finished, _ = run(small, "source", "freshness")
    assert finished.return_code == 1
    (stale,) = [each for each in finished.results if each.status == "error"]
    assert stale.unique_id == "source.small.raw.raw_orders"
    assert stale.error is not None


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(1)])
def test_interrupt_of_the_process_is_raised(
    small: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    from dbt.cli.main import dbtRunner, dbtRunnerResult

    result = dbtRunnerResult(success=False, exception=stop)
    monkeypatch.setattr(dbtRunner, "invoke", lambda *_: result)
    with pytest.raises(type(stop)):
        Engine(Shared(), exiting=lambda: True).command(spec_for(small, "compile"), "compile", lambda _: None)


@pytest.mark.parametrize("stop", [SystemExit(3), click.Abort(), click.exceptions.Exit(4)])
def test_exit_within_dbt_is_an_error_of_the_command(
    small: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    from dbt.task.compile import CompileTask

    def leave(*_: object) -> None:
        raise stop

    monkeypatch.setattr(CompileTask, "run", leave)
    finished, _ = run(small, "compile")
    assert finished.return_code == 2
    assert finished.error is not None


def test_sys_exit_in_a_python_model_fails_the_command(small: Path) -> None:
    (small / "models" / "leaves.py").write_text(
        "import sys\n\ndef model(dbt, session):\n    sys.exit(3)\n    return session.sql('select 1')\n"
    )
    ran = drive(Engine(Shared()), spec_for(small, "run", "--select", "leaves"))
    assert ran.finished.return_code == 2
    assert ran.finished.error is not None
    assert "3" in ran.finished.error.message


@pytest.mark.parametrize(
    ("args", "first"),
    [
        (("--version",), "Core:"),
        (("--help",), "Usage: dbt [OPTIONS] [COMMAND] [ARGS]..."),
        (("run", "--help"), "Usage: dbt run [OPTIONS]"),
        (("docs", "generate", "-h"), "Usage: dbt docs generate [OPTIONS]"),
    ],
)
def test_help_and_version_equal_dbts(small: Path, args: tuple[str, ...], first: str) -> None:
    spec, events = spec_for(small, *args), list[Event]()
    engine = Engine(Shared())
    assert engine.warehouse(spec, args[0]) is None
    finished = engine.command(spec, args[0], events.append)
    assert (finished.return_code, finished.error) == (0, None)
    assert next(event.text for event in events) == first


@pytest.mark.parametrize(
    "args",
    [("compile", "--select", "a", "--inline", "select 1"), ("show", "--inline"), ("debug", "--nonsense")],
)
def test_refused_arguments_need_no_warehouse(small: Path, args: tuple[str, ...]) -> None:
    assert Engine(Shared()).warehouse(spec_for(small, *args), args[0]) is None


def test_selection_of_an_earlier_command_is_reset(small: Path) -> None:
    (small / "macros").mkdir(exist_ok=True)
    (small / "macros" / "tell.sql").write_text(
        "{% macro tell() %}{{ print('selected: ' ~ selected_resources | length) }}{% endmacro %}"
    )
    engine, events = Engine(Shared()), list[Event]()
    assert engine.plan(spec_for(small, "build"), events.append).facts.selected
    assert engine.command(
        spec_for(small, "run-operation", "tell"), "run-operation", events.append
    ).run_results
    assert "selected: 0" in [event.text for event in events if event.kind == LINE]
