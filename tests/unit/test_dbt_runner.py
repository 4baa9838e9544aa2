"""DbtRunner without a server: its requests and its results."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from producer import (
    DbtCompilationError,
    DbtExecutionError,
    DbtRunner,
    DbtUsageError,
    Limits,
    RetryPolicy,
    classify_dbt_error,
    retry_with_backoff,
)
from tests.support.fake_worker import Behaviour, FakeWorker
from tests.support.projects import PROJECTS
from workers.contract.errors import DbtError, ErrorInfo, exception_of
from workers.contract.errors.classify import Failure, classify
from workers.contract.events import LINE, STATE, Event
from workers.contract.messages import RunRequest
from workers.contract.results import DbtResult
from workers.ledger.records import Claim

PROJECT = PROJECTS / "trial"
MODELS: dict[str, tuple[str, ...]] = {
    "int_model_a": (), "int_model_b": (), "int_raised": ("int_model_a", "int_model_b"),
}  # fmt: skip
IMPATIENT = RetryPolicy(max_attempts=3, base_delay=0.01, jitter=False)

Play = Callable[..., tuple[DbtRunner, FakeWorker]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    """A runner whose runs the fake worker executes by a script."""
    with ExitStack() as stack:

        def start(
            behaviour: Mapping[str, Behaviour] | None = None, **options: Any
        ) -> tuple[DbtRunner, FakeWorker]:
            worker = stack.enter_context(FakeWorker(MODELS, behaviour).running(monkeypatch))
            worker.register()
            return DbtRunner(PROJECT, broker_url="redis://nowhere:1/0", **options), worker

        yield start


def request_of(worker: FakeWorker, result: DbtResult) -> RunRequest:
    request = worker.ledger.request(result.run_id)
    assert request is not None
    return request


def refused() -> ErrorInfo:
    return classify(Failure(message="Database Error\n  connection refused", exceptions=("OperationalError",),
                            adapter="postgres"))  # fmt: skip


def test_dbt_runner_successful_command_execution(play: Play) -> None:
    runner, worker = play()
    result = runner.execute_command(["run"], description="the nightly run", stream_output=False)
    assert (result.success, result.return_code, result.stderr, result.error) == (True, 0, "", None)
    assert result.command == ["dbt", "run", "--threads", "4"]
    assert result.execution_time > 0
    assert {node.name: node.status for node in result.nodes} == dict.fromkeys(MODELS, "success")
    assert result.stdout.startswith("Found 3 models\n")
    assert result.stdout.endswith("Done. TOTAL=3\n")
    request = request_of(worker, result)
    assert (request.description, request.project_dir, request.cwd) == (
        "the nightly run", str(PROJECT), str(PROJECT),
    )  # fmt: skip


def test_dbt_runner_streaming_output_capture(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    """A line arrives before its node ends, and the result has the same lines."""
    heard_start = threading.Event()

    def wait_for_the_caller(claim: Claim) -> None:
        assert heard_start.wait(10), "the line did not come while its node was at work"

    events: list[Event] = []
    runner, _ = play({"int_model_a": wait_for_the_caller}, on_event=events.append)
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if "START model main.int_model_a" in line:
            heard_start.set()

    result = runner.execute_command(["run"], on_line=on_line)
    assert "".join(f"{line}\n" for line in lines) == result.stdout
    assert [event.text for event in events if event.kind == LINE] == lines
    assert ("model.trial.int_raised", "success") in [(e.node, e.state) for e in events if e.kind == STATE]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert capsys.readouterr().out == ""
    again = runner.execute_command(["run"])
    assert capsys.readouterr().out == again.stdout
    runner.execute_command(["run"], stream_output=False)
    assert capsys.readouterr().out == ""


def test_retry_logic_transient_failures(play: Play) -> None:
    def fails_twice(claim: Claim) -> ErrorInfo | None:
        return refused() if claim.tries < 3 else None

    runner, worker = play({"int_model_a": fails_twice, "int_model_b": lambda _: None})
    result = runner.execute_command(["run"], stream_output=False, retry=IMPATIENT)
    assert result.success
    tried = {node.name: node.attempts for node in result.nodes}
    assert [attempt.status for attempt in tried["int_model_a"]] == ["error", "error", "success"]
    assert [attempt.number for attempt in tried["int_model_a"]] == [1, 2, 3]
    assert all(attempt.error and attempt.error.retryable for attempt in tried["int_model_a"][:2])
    assert len(tried["int_model_b"]) == len(tried["int_raised"]) == 1
    assert worker.waits == [0.01, 0.02]  # they grow


def test_retries_end_at_max_attempts(play: Play) -> None:
    runner, _ = play({"int_model_a": lambda _: refused()})
    result = runner.execute_command(["run"], stream_output=False, retry=IMPATIENT)
    assert not result.success
    assert result.error is not None
    assert (result.error.category, result.error.attempts) == ("connection", 3)
    by_name = {node.name: node for node in result.nodes}
    assert len(by_name["int_model_a"].attempts) == 3
    assert by_name["int_raised"].status == "skipped"


def test_permanent_failure_is_not_retried(play: Play) -> None:
    error = classify(
        Failure(message="Compilation Error\n  'rat' is undefined", exceptions=("CompilationError",))
    )
    runner, worker = play({"int_model_a": lambda _: error})
    result = runner.execute_command(["run"], stream_output=False, retry=IMPATIENT)
    assert [len(node.attempts) for node in result.nodes if node.name == "int_model_a"] == [1]
    assert worker.waits == []


def test_retry_with_backoff_repeats_a_call() -> None:
    results = iter([failed(refused()), failed(refused()), succeeded()])
    waits: list[float] = []
    result = retry_with_backoff(lambda: next(results), base_delay=1, backoff_factor=3, sleep=waits.append)
    assert result.success
    assert waits == [1, 3]


def test_retry_with_backoff_returns_a_permanent_failure() -> None:
    calls = []

    def call() -> DbtResult:
        calls.append(1)
        return failed(classify(Failure(message="x", exceptions=("CompilationError",))))

    assert not retry_with_backoff(call, sleep=lambda _: pytest.fail("it waited")).success
    assert len(calls) == 1


def test_retry_with_backoff_repeats_a_call_that_raises_a_transient_error() -> None:
    waits: list[float] = []

    def call() -> DbtResult:
        raise exception_of(refused())

    with pytest.raises(DbtError, match="refused"):
        retry_with_backoff(call, max_attempts=4, base_delay=10, max_delay=15, sleep=waits.append)
    assert waits == [10, 15, 15]
    with pytest.raises(ValueError, match="max_attempts"):
        retry_with_backoff(call, max_attempts=0)
    with pytest.raises(ZeroDivisionError):
        retry_with_backoff(lambda: 1 / 0, sleep=lambda _: pytest.fail("it waited"))


def failed(error: ErrorInfo) -> DbtResult:
    return DbtResult(
        success=False, stdout="", stderr="", execution_time=1, return_code=1, command=["dbt"], error=error
    )


def succeeded() -> DbtResult:
    return DbtResult(success=True, stdout="", stderr="", execution_time=1, return_code=0, command=["dbt"])


COMPILATION = """\
12:00:01  Running with dbt=1.11.16
12:00:02  Encountered an error:
Compilation Error in model orders (models/orders.sql)
  Model 'model.shop.orders' (models/orders.sql) depends on a node named 'ordres' which was not found
"""
EXECUTION = """\
12:00:01  Running with dbt=1.11.16
12:00:03  Completed with 1 error, 0 partial successes, and 0 warnings:
12:00:03
12:00:03  Failure in model orders (models/orders.sql)
12:00:03    Database Error in model orders (models/orders.sql)
  column "amuont" does not exist
  LINE 3: select amuont
                 ^
  HINT:  Perhaps you meant to reference the column "raw.amount".
12:00:03  Done. PASS=0 WARN=0 ERROR=1 SKIP=0 NO-OP=0 TOTAL=1
"""


def test_error_classification_compilation_vs_execution(play: Play) -> None:
    compilation = classify_dbt_error(COMPILATION, "", 2)
    assert isinstance(compilation, DbtCompilationError)
    assert not isinstance(compilation, DbtExecutionError)
    assert not compilation.retryable
    execution = classify_dbt_error(EXECUTION, "", 1)
    assert isinstance(execution, DbtExecutionError)
    assert not isinstance(execution, DbtCompilationError)
    assert execution.info is not None
    assert execution.info.code == "missing_column"
    assert "amount" in execution.suggested_fix
    # and so it is with what workers classified
    assert compilation.info is not None
    runner, _ = play({"int_model_a": lambda _: compilation.info, "int_model_b": lambda _: execution.info})
    result = runner.execute_command(["run"], stream_output=False)
    errors = {node.name: exception_of(node.error) for node in result.nodes if node.error}
    assert isinstance(errors["int_model_a"], DbtCompilationError)
    assert isinstance(errors["int_model_b"], DbtExecutionError)
    assert result.error is not None
    assert result.stderr == result.error.message


def test_command_templating_variable_injection(play: Play) -> None:
    runner, worker = play()
    dangerous = {"cola_rate": 0.01, "label": "a'b\"; rm -rf / #{{ x }}", "levels": [1, 2], "note": "é\n"}
    result = runner.execute_command(
        ["run", "--select", "int_model_a"], simulation_year=2026, dbt_vars=dangerous, stream_output=False
    )
    args = request_of(worker, result).args
    assert args[:3] == ("run", "--select", "int_model_a")
    assert args.count("--vars") == 1
    assert json.loads(args[args.index("--vars") + 1]) == {"simulation_year": 2026, **dangerous}
    assert args[args.index("--threads") + 1] == "4"
    assert result.command == ["dbt", *args]


def test_vars_of_the_command_are_merged(play: Play) -> None:
    runner, worker = play()
    result = runner.execute_command(
        ["run", "--vars", "{cola_rate: 0.05}", "--threads", "2"], simulation_year=2026, stream_output=False
    )
    args = request_of(worker, result).args
    assert json.loads(args[args.index("--vars") + 1]) == {"cola_rate": 0.05, "simulation_year": 2026}
    assert args.count("--threads") == 1


@pytest.mark.parametrize(
    ("args", "options", "match"),
    [
        (["run"], {"simulation_year": 2025, "dbt_vars": {"simulation_year": 2026}}, "2025 .* and 2026"),
        (["run", "--vars", "simulation_year: 2026"], {"simulation_year": 2025}, "simulation_year"),
        (["run"], {"dbt_vars": {"when": object()}}, "when"),
        (["run"], {"dbt_vars": "a: 1"}, "dbt_vars"),
        (["run"], {"simulation_year": True}, "simulation_year"),
        (["rn"], {}, "No such command 'rn'"),
        (["run", "--no-such-flag"], {}, "--no-such-flag"),
    ],
)
def test_contradicting_arguments_are_not_submitted(
    play: Play, args: list[str], options: dict[str, Any], match: str
) -> None:
    runner, worker = play()
    with pytest.raises(DbtUsageError, match=match):
        runner.execute_command(args, stream_output=False, **options)
    assert worker.ledger.active_runs() == []
    assert list(worker.redis().keys()) == [b"relay:workers"]  # its hello


def test_missing_project_is_not_submitted(play: Play, tmp_path: Path) -> None:
    play()
    runner = DbtRunner(tmp_path / "no_project", broker_url="redis://nowhere:1/0")
    with pytest.raises(DbtUsageError, match="no_project"):
        runner.execute_command(["run"])


def test_parallel_model_execution(play: Play) -> None:
    """Each node waits until the other runs: in sequence, they would wait forever."""
    both = threading.Barrier(2, timeout=10)

    def meet(claim: Claim) -> None:
        both.wait()

    runner, worker = play({"int_model_a": meet, "int_model_b": meet})
    results = runner.run_models(["int_model_a", "int_model_b"], parallel=True, stream_output=False)
    assert [result.success for result in results] == [True, True]
    assert [[node.name for node in result.nodes] for result in results] == [["int_model_a"], ["int_model_b"]]
    [first, second] = [result.nodes[0] for result in results]
    assert max(first.started_at, second.started_at) < min(first.finished_at, second.finished_at)
    assert "START model main.int_model_a" in results[0].stdout
    assert "int_model_b" not in results[0].stdout
    assert request_of(worker, results[0]).required_models == ("int_model_a", "int_model_b")


def test_models_without_parallel_run_one_after_another(play: Play) -> None:
    busy = threading.Lock()

    def alone(claim: Claim) -> None:
        assert busy.acquire(blocking=False)
        time.sleep(0.02)
        busy.release()

    runner, _ = play({"int_model_a": alone, "int_model_b": alone})
    results = runner.run_models(["int_model_b", "int_model_a"], stream_output=False)
    assert [result.nodes[0].name for result in results] == ["int_model_b", "int_model_a"]
    assert results[0].run_id != results[1].run_id
    assert runner.run_models([]) == []


def test_failed_model_does_not_affect_the_results_of_others(play: Play) -> None:
    error = classify(Failure(message="x", exceptions=("CompilationError",)))
    runner, _ = play({"int_model_b": lambda _: error})
    good, bad, absent = runner.run_models(
        ["int_model_a", "int_model_b", "int_elsewhere"], parallel=True, stream_output=False
    )
    assert (good.success, good.return_code, good.stderr, good.error) == (True, 0, "", None)
    assert (bad.success, bad.return_code) == (False, 1)
    assert bad.stderr == error.message
    assert (absent.success, absent.nodes) == (False, ())
    assert "int_elsewhere" in absent.stderr


def test_run_model_runs_one_model(play: Play) -> None:
    runner, worker = play()
    result = runner.run_model("int_model_a", simulation_year=2027, stream_output=False)
    assert [node.name for node in result.nodes] == ["int_model_a"]
    request = request_of(worker, result)
    assert request.required_models == ("int_model_a",)
    assert request.description == "Running model int_model_a"


def test_command_without_nodes_is_one_step(play: Play) -> None:
    runner, _ = play()
    result = runner.execute_command(["ls"], stream_output=False)
    assert (result.success, result.stdout, result.nodes) == (True, "a line of the command\n", ())
    assert result.command == ["dbt", "ls"]


def test_runner_is_safe_for_many_threads(play: Play) -> None:
    runner, worker = play()
    results: dict[int, DbtResult] = {}

    def call(year: int) -> None:
        results[year] = runner.execute_command(["run"], simulation_year=year, stream_output=False)

    threads = [threading.Thread(target=call, args=(year,)) for year in range(2025, 2033)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({result.run_id for result in results.values()}) == 8
    for year, result in results.items():
        args = request_of(worker, result).args
        assert json.loads(args[args.index("--vars") + 1]) == {"simulation_year": year}


def test_limits_of_a_command_override_runner_and_environment(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_RELAY_NODE_TIME_LIMIT", "600")
    monkeypatch.setenv("DBT_RELAY_NODE_SOFT_TIME_LIMIT", "540.5")
    monkeypatch.setenv("DBT_RELAY_RUN_DEADLINE", "3600")
    runner, worker = play()
    result = runner.execute_command(["run"], stream_output=False)
    said = Limits(soft_time_limit=540.5, time_limit=600, deadline=3600)
    assert request_of(worker, result).limits == said
    mine, of_command = Limits(time_limit=60), Limits(deadline=5)
    runner, worker = play(limits=mine)
    result = runner.execute_command(["run"], stream_output=False)
    assert request_of(worker, result).limits == mine
    result = runner.execute_command(["run"], stream_output=False, limits=of_command)
    assert request_of(worker, result).limits == of_command
