"""Keywords of a call: threads, attempts, limits and working_dir; and the public results and errors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from producer import (
    DbtCompilationError,
    DbtConnectionError,
    DbtDataQualityError,
    DbtError,
    DbtExecutionError,
    DbtResult,
    DbtRunner,
    DbtUsageError,
    Limits,
    RetryPolicy,
    classify_dbt_error,
    retry_with_backoff,
)
from tests.support.fake_worker import FakeWorker
from tests.support.projects import PROJECTS
from workers.contract.messages import RunRequest

PROJECT = PROJECTS / "trial"
Submit = Callable[..., RunRequest]


@pytest.fixture
def submit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Submit]:
    """Returns the request of a command: `options` are keywords of the runner, `call` those of the call."""
    with ExitStack() as stack:
        worker = stack.enter_context(FakeWorker({"a": ()}).running(monkeypatch))

        def start(
            options: dict[str, Any], call: dict[str, Any], args: tuple[str, ...] = ("run",)
        ) -> RunRequest:
            runner = DbtRunner(PROJECT, broker_url="redis://nowhere:1/0", **options)
            result = runner.execute_command([*args], stream_output=False, **call)
            request = worker.ledger.request(result.run_id)
            assert request is not None
            return request

        yield start


SLOW = RetryPolicy(max_attempts=7, base_delay=9)


@pytest.mark.parametrize(
    ("options", "call", "policy"),
    [
        ({}, {}, RetryPolicy()),
        ({}, {"retry": True}, RetryPolicy()),
        ({}, {"retry": False}, RetryPolicy(max_attempts=1)),
        ({}, {"retry": 5}, RetryPolicy(max_attempts=5)),
        ({}, {"max_attempts": 5}, RetryPolicy(max_attempts=5)),
        ({}, {"retry": SLOW}, SLOW),
        ({}, {"retry": SLOW, "max_attempts": 2}, RetryPolicy(max_attempts=2, base_delay=9)),
        ({"retry": SLOW}, {}, SLOW),
        ({"retry": SLOW}, {"retry": True}, SLOW),
        ({"retry": SLOW}, {"retry": False}, RetryPolicy(max_attempts=1)),
        ({"retry": SLOW}, {"retry": 2}, RetryPolicy(max_attempts=2, base_delay=9)),
        ({"retry": False}, {}, RetryPolicy(max_attempts=1)),
        ({"retry": False}, {"max_attempts": 4}, RetryPolicy(max_attempts=4)),
    ],
)
def test_retry_policy_of_a_call(submit: Submit, options: Any, call: Any, policy: RetryPolicy) -> None:
    assert submit(options, call).retry == policy


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        (
            {"retry": "yes"},
            "retry is 'yes', of type str: it must be True, False, a number of attempts or a RetryPolicy",
        ),
        ({"retry": {"max_attempts": 3}}, "of type dict"),
        ({"retry": 2.5}, "of type float"),
        ({"retry": 0}, r"which is not valid: Expected `int` >= 1 - at `\$.max_attempts`"),
        ({"retry": RetryPolicy(max_attempts=101)}, r"`int` <= 100 - at `\$.max_attempts`"),
        ({"retry": RetryPolicy(base_delay=-1)}, r"at `\$.base_delay`"),
        ({"limits": 60}, "limits is 60, of type int: it must be a Limits"),
        ({"limits": Limits(time_limit=-1)}, r"at `\$.time_limit`"),
        ({"threads": 0}, "threads is 0: it must be a whole number of at least 1"),
        ({"threads": -1}, "threads is -1"),
        ({"threads": True}, "threads is True"),
        ({"threads": "4"}, "threads is '4'"),
    ],
)
def test_invalid_keywords_are_refused_by_runner_and_call(keywords: Any, text: str) -> None:
    with pytest.raises(DbtUsageError, match=text):
        DbtRunner(PROJECT, **keywords)
    with pytest.raises(DbtUsageError, match=text):
        DbtRunner(PROJECT).execute_command(["run"], **keywords)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        (
            {"retry": False, "max_attempts": 3},
            "retry=False and max_attempts=3 both set the number of attempts",
        ),
        ({"retry": 2, "max_attempts": 3}, "retry=2 and max_attempts=3 both set the number of attempts"),
        ({"max_attempts": 0}, r"at `\$.max_attempts`"),
        ({"max_attempts": "3"}, r"Expected `int`, got `str` - at `\$.max_attempts`"),
    ],
)
def test_contradicting_attempts_are_refused(keywords: Any, text: str) -> None:
    with pytest.raises(DbtUsageError, match=text):
        DbtRunner(PROJECT).execute_command(["run"], **keywords)


@pytest.mark.parametrize(
    ("options", "call", "args", "sent"),
    [
        ({}, {}, ("run",), ("run", "--threads", "4")),
        ({"threads": 2}, {}, ("run",), ("run", "--threads", "2")),
        ({"threads": 2}, {"threads": 8}, ("run",), ("run", "--threads", "8")),
        ({}, {}, ("run", "--threads", "3"), ("run", "--threads", "3")),
        ({}, {"threads": 3}, ("run", "--threads", "3"), ("run", "--threads", "3")),
        ({}, {"threads": 3}, ("clean",), ("clean",)),
    ],
)
def test_threads_of_a_call_are_added_to_the_command(
    submit: Submit, options: Any, call: Any, args: Any, sent: Any
) -> None:
    assert submit(options, call, args).args == sent


def test_threads_that_contradict_the_command_line_are_refused() -> None:
    with pytest.raises(DbtUsageError, match="The command has --threads 3, and threads=8 was given too"):
        DbtRunner(PROJECT).execute_command(["run", "--threads", "3"], threads=8)


# The folder


PROFILE = "shop: {target: dev, outputs: {dev: {type: duckdb}}}\n"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a project."""
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text(PROFILE)
    return tmp_path


@pytest.mark.parametrize("beside", ["nothing", "a folder dbt that is no project"])
def test_current_folder_is_used_where_it_is_the_project(
    beside: str, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if beside != "nothing":
        (shop / "dbt").mkdir()
    monkeypatch.chdir(shop)
    with FakeWorker({"a": ()}).running(monkeypatch) as worker:
        result = DbtRunner(broker_url="redis://nowhere:1/0").execute_command(["run"], stream_output=False)
        request = worker.ledger.request(result.run_id)
    assert request is not None
    assert (request.cwd, request.project_dir) == (str(shop), str(shop))


def test_missing_project_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DbtUsageError, match=f"No dbt_project.yml found at expected path {tmp_path}/dbt_project.yml"
    ):
        DbtRunner().execute_command(["run"])


def test_missing_working_dir_is_named(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project in its parent folder is not used."""
    monkeypatch.chdir(shop)
    with pytest.raises(
        DbtUsageError, match=f"There is no folder {shop}/elsewhere, the working_dir of this DbtRunner"
    ):
        DbtRunner("elsewhere").execute_command(["run"])


# Results and errors


def test_result_can_be_built_from_its_six_fields() -> None:
    named = DbtResult(
        success=True, stdout="a\n", stderr="", execution_time=1.5, return_code=0, command=["dbt", "run"]
    )
    assert DbtResult(True, "a\n", "", 1.5, 0, ["dbt", "run"]) == named
    shown = dataclasses.asdict(named)
    assert list(shown)[:6] == ["success", "stdout", "stderr", "execution_time", "return_code", "command"]
    assert dataclasses.replace(named, success=False).success is False
    assert json.loads(json.dumps(named.asdict())) == {**shown, "nodes": [], "attempts": [], "warnings": []}


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (DbtExecutionError("the warehouse failed"), 3),
        (DbtConnectionError("refused"), 3),
        (ConnectionError("reset"), 3),
        (ConnectionResetError("reset"), 3),
        (DbtCompilationError("no such macro"), 1),
        (DbtError("something"), 1),
        (classify_dbt_error("", 'Database Error\n  column "x" does not exist', 1), 1),
        (OSError("disk"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_call_is_repeated_for_transient_exceptions(error: Exception, calls: int) -> None:
    made: list[int] = []

    def call() -> None:
        made.append(1)
        raise error

    with pytest.raises(type(error)):
        retry_with_backoff(call, sleep=lambda _: None)
    assert len(made) == calls


@pytest.mark.parametrize("return_code", [0, 1, 2, 130, 137, None])
@pytest.mark.parametrize(
    ("stdout", "stderr", "kind"),
    [
        ("", "Compilation Error", DbtCompilationError),
        (None, "Compilation Error in model a: no macro named b", DbtCompilationError),
        ("", "dbt failed: Compilation Error: model 'a' depends on a node named 'b'", DbtCompilationError),
        ("", "Database Error", DbtExecutionError),
        ("", "Database Error: relation x does not exist", DbtExecutionError),
        ("1 of 1 test failed", None, DbtDataQualityError),
        ("test failed", "", DbtDataQualityError),
    ],
)
def test_error_text_is_classified_with_any_exit_code(
    stdout: str | None, stderr: str | None, kind: type[DbtError], return_code: int | None
) -> None:
    assert isinstance(classify_dbt_error(stdout, stderr, return_code), kind)


@pytest.mark.parametrize("texts", [("", ""), (None, None), ("all is well", "what was that")])
@pytest.mark.parametrize("return_code", [0, 1, None])
def test_unclassified_failure_is_a_plain_error(texts: Any, return_code: int | None) -> None:
    error = classify_dbt_error(*texts, return_code)
    assert type(error) is DbtError
    assert error.info is not None
    assert error.info.error_class == "DbtError"
