"""The command line: parsing, output, exit codes, signals and dbt-relay's own commands."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import producer.session
from producer.cli import broker, commands
from producer.cli import main as cli
from producer.cli.console import describe_error
from producer.cli.help import DBT_COMMANDS, OWN_COMMANDS, command_help
from producer.client import Record, RunSummary, WorkerInfo
from producer.dbt_cli import arguments
from producer.dbt_cli.invocation import Invocation
from producer.dbt_cli.options import command_names
from producer.embedded import stack as embedded
from producer.following.interrupts import Detached
from workers.contract.errors import BrokerUnavailableError, DbtUsageError, ErrorInfo, NoWorkerError
from workers.contract.events import LINE, RUN, STATE, Event
from workers.contract.messages import RunRequest
from workers.contract.results import DbtResult, NodeResult
from workers.contract.run_store import FinalRecord

ROOT = Path(__file__).resolve().parents[2]
RUN_ID = "20260101T000000-0123456789ab"
OTHER_ID = "20260102T000000-0123456789ab"
BROKEN = ErrorInfo(
    code="missing_column",
    category="database",
    error_class="DbtExecutionError",
    message="column amuont\n  does not exist",
    node="model.shop.orders",
    file="models/orders.sql",
    line=7,
    suggested_fix="Did you mean amount?",
    attempts=2,
)


def result(return_code: int = 0, **fields: Any) -> DbtResult:
    given: dict[str, Any] = {
        "success": return_code == 0,
        "stdout": "",
        "stderr": "",
        "execution_time": 1.0,
        "return_code": return_code,
        "command": ["dbt", "run"],
        "run_id": RUN_ID,
    }
    return DbtResult(**{**given, **fields})


@dataclass
class Session:
    """In place of `producer.session.run_invocation`: prints `lines`, calls `act`, returns `answer`."""

    lines: list[str] = field(default_factory=list)
    answer: DbtResult = field(default_factory=result)
    act: Callable[[], None] = lambda: None
    calls: list[Invocation] = field(default_factory=list)
    places: list[tuple[Path, Mapping[str, str]]] = field(default_factory=list)

    def __call__(
        self,
        invocation: Invocation,
        *,
        cwd: Path,
        environ: Mapping[str, str],
        on_line: Callable[[str], None],
        description: str = "",
    ) -> DbtResult:
        self.calls.append(invocation)
        self.places.append((cwd, environ))
        for line in self.lines:
            on_line(line)
        self.act()
        return self.answer


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    fake = Session()
    monkeypatch.setattr(producer.session, "run_invocation", fake)
    return fake


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A valid project as working directory, without a broker or a stack."""
    for name in os.environ:
        if name.startswith(("DBT_", "REDIS_URL")):
            monkeypatch.delenv(name)
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb}}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DBT_RELAY_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path


# ---------------------------------------------------------------- dbt's twin


def test_dbt_command_prints_dbts_lines_and_returns_dbts_exit_code(
    session: Session, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_PATH", "x.duckdb")
    session.lines = ["\x1b[0m06:00:00  Running with dbt", "1 of 1 START", ""]
    assert cli.main(["--no-defer", "run", "--select", "a", "b"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "\x1b[0m06:00:00  Running with dbt\n1 of 1 START\n\n"
    assert captured.err == ""
    assert session.calls[0].args == ("--no-defer", "run", "--select", "a", "b")
    assert session.places[0][0] == project
    assert session.places[0][1]["DATABASE_PATH"] == "x.duckdb"


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("code", [1, 2])
def test_failure_is_explained_on_stderr(
    session: Session,
    capsys: pytest.CaptureFixture[str],
    code: int,
    kept: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kept:
        monkeypatch.setenv("DBT_RELAY_BROKER_URL", "redis://broker.example/0")
    nodes = tuple(
        NodeResult(
            unique_id=f"model.shop.{name}", name=name, resource_type="model", status="error", error=BROKEN
        )
        for name in ("orders", "payments", "refunds")
    )
    session.lines, session.answer = ["Done. ERROR=3"], result(code, error=BROKEN, nodes=nodes)
    assert cli.main(["run"]) == code
    captured = capsys.readouterr()
    assert captured.out == "Done. ERROR=3\n"
    assert captured.err == (
        "dbt-relay: missing_column in model.shop.orders (models/orders.sql, line 7) after 2 attempts: "
        "column amuont does not exist\n"
        "  Fix: Did you mean amount?\n"
        f"dbt-relay: 2 more{f'; `dbt-relay result {RUN_ID}` shows all of them' if kept else ''}\n"
    )


@pytest.mark.parametrize("words", [["--quiet", "run"], ["run", "--log-format", "json"]])
def test_quiet_and_json_output_have_only_dbts_lines(
    session: Session, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    session.answer = result(1, error=BROKEN)
    assert cli.main(words) == 1
    assert capsys.readouterr().err == ""


def test_failure_without_a_classified_error_is_not_explained(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    session.answer = result(1)
    assert cli.main(["run"]) == 1
    assert capsys.readouterr().err == ""


def test_error_without_node_and_fix_is_one_line() -> None:
    bare = ErrorInfo(code="internal", category="internal", error_class="DbtExecutionError", message="no")
    assert describe_error(bare) == "internal: no"


def test_unencodable_characters_are_escaped() -> None:
    script = "from producer.cli.main import main, print_line, _escape_unencodable; import sys; _escape_unencodable(sys.stdout); print_line('a\\u2713')"
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "a\\u2713\n"


def test_closed_stdout_does_not_stop_the_run() -> None:
    script = (
        "import sys; from producer.cli.main import print_line\n"
        "for number in range(20000): print_line('x' * 100)\n"
        "sys.stderr.write('went on to the end')"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == "went on to the end"
    assert process.wait() == 0


def test_dbt_command_does_not_import_heavy_packages() -> None:
    """Each of them takes a tenth of a second or more to import."""
    script = (
        "import sys, producer.session\n"
        "from producer.cli.main import main\n"
        "assert main(['run', '--selct']) == 2\n"
        "slow = {'dbt', 'dbt_common', 'celery', 'kombu', 'click', 'rich', 'jinja2', 'importlib.metadata'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    assert loaded <= {"importlib.metadata"}  # redis-py loads it by itself


@pytest.mark.parametrize(("argv", "while_loading"), [(None, False), (["run"], True)])
def test_garbage_collection_is_paused_during_imports(
    session: Session, monkeypatch: pytest.MonkeyPatch, *, argv: list[str] | None, while_loading: bool
) -> None:
    """Only in a process of the command itself, not in a program that calls `main`."""
    seen: list[bool] = []
    parse = arguments.parse_invocation

    def parsing(*args: Any, **options: Any) -> Invocation:
        seen.append(gc.isenabled())
        return parse(*args, **options)

    monkeypatch.setattr(arguments, "parse_invocation", parsing)
    monkeypatch.setattr(sys, "argv", ["dbt-relay", "run"])
    session.act = lambda: seen.append(gc.isenabled())
    frozen = gc.get_freeze_count()
    try:
        assert cli.main(argv) == 0
        assert seen == [while_loading, True]
        assert gc.isenabled()
        assert (gc.get_freeze_count() > frozen) is (argv is None)
    finally:
        gc.unfreeze()


def test_refused_command_resumes_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dbt-relay", "run", "--selct"])
    try:
        assert cli.main() == 2
        assert gc.isenabled()
    finally:
        gc.unfreeze()


# ---------------------------------------------------------------- bad input

BAD_COMMAND_LINES = [
    ["rnu"],
    ["dbt", "run"],
    ["--debug"],
    ["--bogus", "run"],
    ["docs"],
    ["docs", "publish"],
    ["docs", "serve"],
    ["init"],
    ["source", "fresh"],
    ["run", "--selct", "a"],
    ["run", "--full-refresh=1"],
    ["run", "-Z"],
    ["run", "--threads"],
    ["run", "--threads", "four"],
    ["run", "--threads", ""],
    ["run", "my_model"],
    ["run", "--vars", "{a: 1"],
    ["run", "--vars", "a:1"],
    ["run", "--vars", ""],
    ["run", "--vars", "- a"],
    ["run", "--vars", "{a: 2025-13-40}"],
    ["run", "--project-dir", "nowhere"],
    ["run", "--project-dir", "models"],
    ["run", "--profiles-dir", "nowhere"],
    ["run", "--profiles-dir", "models"],
    ["run", "--profile", "nobody"],
    ["run", "--target", "prod"],
    ["run", "--indirect-selection", "greedy"],
    ["run", "--log-format", "xml"],
    ["run", "--event-time-start", "soon"],
    ["run", "--state", "profiles.yml"],
    ["run", "--warn-error-options", "all"],
    ["--target", "dev", "run", "--target", "dev"],
    ["build", "--resource-type", "modle"],
    ["ls", "--output", "yaml"],
    ["show", "--limit", "many"],
    ["run-operation"],
    ["run-operation", "a", "b"],
    ["run-operation", "m", "--args", "x"],
    ["retry", RUN_ID],
]


@pytest.mark.parametrize("words", BAD_COMMAND_LINES, ids=" ".join)
def test_invalid_arguments_are_refused_before_anything_is_queued(
    session: Session, project: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (project / "models").mkdir()
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error: " in captured.err
    assert "Traceback" not in captured.err
    assert session.calls == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dbt_project.yml", None),
        ("dbt_project.yml", "name: [\n"),
        ("dbt_project.yml", "name: shop\n"),
        ("profiles.yml", None),
        ("profiles.yml", "shop: {target: dev, outputs: {}}\n"),
        ("profiles.yml", "shop: {target: live, outputs: {dev: {}}}\n"),
    ],
)
def test_invalid_project_is_refused_before_anything_is_queued(
    session: Session,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str | None,
) -> None:
    monkeypatch.setenv("HOME", str(project / "home"))
    if content is None:
        (project / name).unlink()
    else:
        (project / name).write_text(content)
    assert cli.main(["run"]) == 2
    captured = capsys.readouterr()
    assert name in captured.err
    assert "Traceback" not in captured.err
    assert session.calls == []


def test_invalid_environment_variable_is_refused(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DBT_FULL_REFRESH", "perhaps")
    assert cli.main(["run"]) == 2
    assert "(env var: 'DBT_FULL_REFRESH')" in capsys.readouterr().err
    assert session.calls == []


def test_usage_error_has_dbts_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--selct"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["Usage: dbt-relay run [OPTIONS]", "Try 'dbt-relay run --help' for help.", ""]
    assert lines[3].startswith("Error: No such option '--selct'. (Did you mean one of: '--select'")


def test_misspelt_own_command_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["statsu"]) == 2
    assert "Error: No such command 'statsu'. Did you mean 'status'?\n" in capsys.readouterr().err


def test_removed_working_directory_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = project / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        assert cli.main(["run"]) == 2
    finally:
        os.chdir(project)
    assert "working directory cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (BrokerUnavailableError("Redis at redis://h cannot be reached\nStart it."), "Error: Redis at redis://h"),
        (
            NoWorkerError(
                "no worker",
                ErrorInfo(code="no_worker", category="worker_lost", error_class="NoWorkerError", message="no worker",
                          suggested_fix="Start one."),
            ),
            "Error: no worker\nStart one.\n",
        ),
        (DbtUsageError("environment variable DBT_RELAY_QUEUE is wrong"), "DBT_RELAY_QUEUE is wrong"),
    ],
)  # fmt: skip
def test_relay_errors_are_printed_with_their_fix(
    session: Session, capsys: pytest.CaptureFixture[str], error: Exception, text: str
) -> None:
    def fail() -> None:
        raise error

    session.act = fail
    assert cli.main(["run"]) == 2
    assert text in capsys.readouterr().err


# ---------------------------------------------------------------- interrupts


@pytest.fixture
def _ordinary_signals() -> Iterator[None]:
    """The signal handlers of a fresh process; coverage installs one of its own."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt("the run was cancelled"), 2, "dbt-relay: the run was cancelled"),
        (Detached("not waited for", run_remains=True), 130, "dbt-relay: not waited for"),
        (Detached("lost with its stack"), 2, "dbt-relay: lost with its stack"),
        (KeyboardInterrupt(), 1, "Aborted!"),
    ],
)
def test_ctrl_c_exit_codes(
    session: Session, capsys: pytest.CaptureFixture[str], error: KeyboardInterrupt, code: int, text: str
) -> None:
    def interrupt() -> None:
        raise error

    session.act = interrupt
    assert cli.main(["run"]) == code
    assert text in capsys.readouterr().err


@pytest.mark.usefixtures("_ordinary_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_cancel_the_run(
    session: Session, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def be_terminated() -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)  # the signal ends it
        pytest.fail("nothing was interrupted")

    session.act = be_terminated
    before = signal.getsignal(number)
    assert cli.main(["run"]) == 128 + number
    assert "dbt-relay: terminated" in capsys.readouterr().err
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("_ordinary_signals")
def test_sigterm_cancels_the_run_of_a_background_job(session: Session) -> None:
    """A shell starts background jobs with SIGINT ignored."""

    def be_terminated() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        pytest.fail("nothing was interrupted")

    session.act = be_terminated
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert cli.main(["run"]) == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ordinary_signals")
def test_ignored_sighup_stays_ignored(session: Session) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        session.act = lambda: os.kill(os.getpid(), signal.SIGHUP)
        assert cli.main(["run"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


# ---------------------------------------------------------------- help and version


def test_help_lists_dbts_and_own_commands(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in (*DBT_COMMANDS, *OWN_COMMANDS):
        assert f"\n  {name} " in text
    assert session.calls == []
    assert set(DBT_COMMANDS) == set(command_names()) - {"docs serve"}
    assert set(OWN_COMMANDS) == set(commands.group.commands)


def test_no_arguments_print_the_help_and_fail_as_dbt_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: dbt-relay" in captured.err


def test_help_of_a_dbt_command_lists_its_options(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["build", "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("-f, --full-refresh", "--vars YAML", "--threads INTEGER", "--defer / --no-defer", "TEXT..."):
        assert part in text
    assert "--deprecated-defer" not in text  # hidden in dbt's own help
    assert session.calls == []
    assert cli.main(["docs", "-h"]) == 0
    assert "generate" in capsys.readouterr().out
    assert "run-operation [OPTIONS] MACRO" in command_help("run-operation")


@pytest.mark.parametrize("words", [["--version"], ["-v"], ["run", "--version"]])
def test_version_has_dbt_relay_and_the_workers_dbt(
    session: Session, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith("dbt-relay ")
    assert "1.11" in text
    assert session.calls == []


def test_version_of_a_source_tree_is_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.metadata

    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    assert cli.main(["--version"]) == 0
    assert "dbt-relay from a source tree" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "words", "code", "text"),
    [
        ("producer", ["rnu"], 2, "Did you mean"),
        ("producer.demo", ["--help"], 0, "Usage: dbt-relay demo"),
    ],
)
def test_python_m_runs_dbt_relay(module: str, words: list[str], code: int, text: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", module, *words], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert text in done.stdout + done.stderr


# ---------------------------------------------------------------- runs


class Client:
    """In place of `RelayClient`."""

    def __init__(self) -> None:
        self.in_line: list[str] = []
        self.events = [
            Event(kind=STATE, run_id=RUN_ID, node="model.shop.orders", state="running"),
            Event(kind=LINE, run_id=RUN_ID, text="1 of 1 START"),
            Event(kind=RUN, run_id=RUN_ID, state="succeeded"),
        ]
        self.known = [self.summary(OTHER_ID), self.summary(RUN_ID)]
        self.answer = result()
        self.cancelled: list[tuple[str, str]] = []
        self.active = True
        self.error: BaseException | None = None
        self.hosts: list[WorkerInfo] = []
        self.reasons: dict[str, int] = {}

    @staticmethod
    def summary(run_id: str, state: str = "active") -> RunSummary:
        return RunSummary(
            run_id=run_id,
            state=state,
            command="build --select [a]",
            submitted_at=1767225600.0,
            done=3,
            total=40,
        )

    def runs(self) -> list[RunSummary]:
        return self.known

    def refused(self) -> dict[str, int]:
        return self.reasons

    def waiting_runs(self) -> list[str]:
        return self.in_line

    def workers(self) -> list[WorkerInfo]:
        return self.hosts

    def watch(self, run_id: str, on_idle: Callable[[], None]) -> Iterator[Event]:
        assert run_id == RUN_ID
        yield from self.events
        if self.error is not None:
            raise self.error

    away = 0.0

    def record(self, run_id: str) -> Record:
        assert run_id == RUN_ID
        request = RunRequest(run_id=run_id, args=("run",), cwd="/p", project_dir="/p")
        return request, FinalRecord(return_code=self.answer.return_code), {}

    def result(self, run_id: str, *, timeout: float | None = None) -> DbtResult:
        if self.error is not None:
            raise self.error
        return self.answer

    def cancel(self, run_id: str, reason: str) -> bool:
        self.cancelled.append((run_id, reason))
        return self.active


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    fake = Client()
    monkeypatch.setenv("DBT_RELAY_BROKER_URL", "redis://user:hunter2@broker:6379/0")
    monkeypatch.setattr(broker, "client_of", lambda _url: fake)
    return fake


def test_runs_are_printed_as_a_table(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "--limit", "1"]) == 0
    text = capsys.readouterr().out
    assert OTHER_ID in text
    assert RUN_ID not in text
    assert "3/40" in text
    assert "build --select [a]" in text
    assert "… 1 more: --limit 2 shows all." in text
    client.known = []
    assert cli.main(["runs"]) == 0
    assert "No runs are known." in capsys.readouterr().out


@pytest.mark.parametrize("name", [RUN_ID, "20260101", RUN_ID[:-1]])
def test_run_is_found_by_its_id_or_its_beginning(client: Client, name: str) -> None:
    assert cli.main(["cancel", name]) == 0
    assert client.cancelled == [(RUN_ID, "cancelled from the command line")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("2026", "2 runs begin with '2026'."),
        ("20260101T000001-0123456789a", f"(Did you mean one of: '{RUN_ID}'"),
        ("x", "`dbt-relay runs` lists them"),
    ],
)
def test_unknown_or_ambiguous_run_is_refused(
    client: Client, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    assert cli.main(["cancel", name]) == 2
    assert text in capsys.readouterr().err
    assert client.cancelled == []


def test_latest_is_the_newest_run(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cancel", "latest"]) == 0
    assert client.cancelled[0][0] == OTHER_ID
    client.known = []
    assert cli.main(["cancel", "latest"]) == 2
    assert "no runs are known" in capsys.readouterr().err


def test_cancel_of_an_ended_run_fails(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.active = False
    assert cli.main(["cancel", RUN_ID, "--reason", "x"]) == 1
    assert "has ended, or is being cancelled" in capsys.readouterr().out


@pytest.mark.parametrize("code", [0, 1])
def test_watch_prints_lines_and_returns_the_runs_exit_code(
    client: Client, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    client.answer = result(code)
    assert cli.main(["watch", RUN_ID]) == code
    assert capsys.readouterr().out == "1 of 1 START\n"


def test_watch_on_a_terminal_shows_the_live_view(
    client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["watch", RUN_ID]) == 0
    assert "1 of 1 START" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["watch", RUN_ID], ["result", RUN_ID]])
def test_ctrl_c_during_watch_does_not_cancel_the_run(
    client: Client, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    client.error = KeyboardInterrupt()
    assert cli.main(words) == 130
    assert f"`dbt-relay cancel {RUN_ID}` stops it" in capsys.readouterr().err
    assert client.cancelled == []


def test_result_is_printed_as_table_or_json(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.answer = result(1, error=BROKEN)
    assert cli.main(["result", RUN_ID]) == 1
    assert "Fix: Did you mean amount?" in capsys.readouterr().out
    assert cli.main(["result", RUN_ID, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "missing_column"


def test_result_with_a_timeout_fails_for_an_active_run(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    client.error = TimeoutError(f"run {RUN_ID} did not end in 1 s")
    assert cli.main(["result", RUN_ID, "--timeout", "1"]) == 2
    assert f"Error: run {RUN_ID} did not end in 1 s.\nFollow it: dbt-relay watch" in capsys.readouterr().err


def test_own_commands_need_a_broker_or_a_stack(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs"]) == 2
    assert "Set DBT_RELAY_BROKER_URL, or start a private stack: dbt-relay up." in capsys.readouterr().err


def test_client_uses_the_configured_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("DBT_RELAY_NAMESPACE", "mine")
    made = broker.client()
    assert made.broker_url == "redis://127.0.0.1:1/0"
    assert made.store.keys.prefix == "mine"


@pytest.mark.parametrize(
    "words", [["up", "--workers", "none"], ["watch"], ["runs", "--bogus"], ["result", "a", "b"]]
)
def test_invalid_arguments_of_own_commands_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert "Usage: dbt-relay" in captured.err
    assert "Error: " in captured.err


# ---------------------------------------------------------------- the stack

INFO = embedded.StackInfo(
    broker_url="redis+socket:///run/x.sock",
    redis_url="unix:///run/x.sock",
    runtime_dir=Path("/run/stack"),
    pid=1,
    server="valkey-server",
    workers=2,
    started_at=1767225600.0,
    version="0.1.0",
)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Calls of the embedded stack, and its answers."""
    book: dict[str, Any] = {"running": None, "down": True, "status": embedded.StackStatus(None), "up": []}

    def up(workers: int | None = None, **options: Any) -> embedded.StackInfo:
        book["up"].append(workers)
        return INFO

    monkeypatch.setattr(embedded, "find_running", lambda _environ: book["running"])
    monkeypatch.setattr(embedded, "up", up)
    monkeypatch.setattr(embedded, "down", lambda: book["down"])
    monkeypatch.setattr(embedded, "status", lambda: book["status"])
    return book


def test_up_starts_the_warm_stack_or_reports_it(
    stack: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["up", "--workers", "2"]) == 0
    assert capsys.readouterr().out == "dbt-relay is up: 2 worker processes, logs in /run/stack.\n"
    assert stack["up"] == [2]
    stack["running"] = INFO
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    assert cli.main(["up", "--workers", "3"]) == 0
    captured = capsys.readouterr()
    assert "is already up: 2 worker processes" in captured.out
    assert "dbt-relay down, then dbt-relay up --workers N" in captured.out
    assert "commands go there" in captured.err


def test_down_reports_whether_a_stack_was_up(
    stack: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["down"]) == 0
    assert capsys.readouterr().out == "dbt-relay is down.\n"
    stack["down"] = False
    assert cli.main(["down"]) == 0
    assert capsys.readouterr().out == "dbt-relay was not up.\n"


def test_status_of_the_stack(stack: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 1
    assert "is not up" in capsys.readouterr().out
    stack["status"] = embedded.StackStatus(None, failure="the server died")
    assert cli.main(["status"]) == 1
    assert "The last warm stack failed: the server died" in capsys.readouterr().out
    stack["status"] = embedded.StackStatus(INFO, ready=("h:1",), queued=4, active=1)
    assert cli.main(["status"]) == 0
    text = capsys.readouterr().out
    assert "2 worker processes" in text
    assert "runs in progress: 1, messages waiting: 4" in text
    assert "No worker process has registered" not in text
    stack["status"] = embedded.StackStatus(INFO)
    assert cli.main(["status"]) == 0
    assert "No worker process has registered" in capsys.readouterr().out


def test_status_of_a_broker(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 1
    text = capsys.readouterr().out
    assert "hunter2" not in text
    assert "No worker is connected. Start one: dbt-relay worker" in text
    client.hosts = [
        WorkerInfo(host="box", pid=7, processes=1, version="0.1.0", queue="dbt-relay", since=1.0, seen=2.0)
    ]
    assert cli.main(["status"]) == 0
    text = capsys.readouterr().out
    assert "worker box:7: 1 worker process, queue dbt-relay, release 0.1.0" in text
    assert "runs in progress: 2" in text
    assert "refused" not in text
    assert "turn" not in text
    client.in_line = [RUN_ID]
    client.reasons = {"not a message": 7} | {f"unknown task {number}": 1 for number in range(9)}
    assert cli.main(["status"]) == 0
    text = capsys.readouterr().out
    assert f"of these, waiting for their turn: 1 (next: {RUN_ID})" in text
    assert "messages refused: 16\n  7 x not a message\n  1 x unknown task 0\n" in text
    assert text.count(" x ") == 5


class Executed(Exception):
    """In place of `os.execve`: this process would be replaced."""

    def __init__(self, words: list[str], environ: Mapping[str, str]) -> None:
        super().__init__(words)
        self.words, self.environ = words, environ


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> None:
    def become(path: str, words: list[str], environ: Mapping[str, str]) -> None:
        assert path == sys.executable
        raise Executed(words, environ)

    monkeypatch.setattr(os, "execve", become)


@pytest.mark.usefixtures("executed")
def test_worker_becomes_celery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBT_RELAY_BROKER_URL", "redis://broker")
    monkeypatch.setenv("DBT_RELAY_QUEUE", "mine")
    with pytest.raises(Executed) as caught:
        cli.main(["worker", "-c", "3", "--max-tasks-per-child", "50"])
    assert caught.value.words[1:] == [
        "-m", "celery", "-A", "workers.app", "worker", "--without-gossip", "--without-mingle",
        "--queues", "mine", "--loglevel", "warning", "--concurrency", "3", "--max-tasks-per-child", "50",
    ]  # fmt: skip
    with pytest.raises(Executed) as caught:
        cli.main(["worker", "--loglevel=info"])
    assert caught.value.words[-1] == "--loglevel=info"
    assert "warning" not in caught.value.words
    assert "--concurrency" not in caught.value.words


@pytest.mark.usefixtures("executed")
def test_worker_without_a_broker_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["worker"]) == 2
    assert "Set DBT_RELAY_BROKER_URL" in capsys.readouterr().err


@pytest.mark.usefixtures("executed")
def test_flower_listens_on_localhost_by_default(
    stack: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack["running"] = INFO
    with pytest.raises(Executed) as caught:
        cli.main(["flower", "--port=5556"])
    assert caught.value.words[1:] == [
        "-m", "celery", "-A", "workers.app", "flower", "--address=127.0.0.1", "--port=5556",
    ]  # fmt: skip
    assert caught.value.environ["DBT_RELAY_BROKER_URL"] == INFO.broker_url
    monkeypatch.setenv("REDIS_URL", "unix:///run/redis.sock?db=2")
    with pytest.raises(Executed) as caught:
        cli.main(["flower", "--address", "0.0.0.0"])
    assert "--address=127.0.0.1" not in caught.value.words
    assert caught.value.environ["DBT_RELAY_BROKER_URL"] == "unix:///run/redis.sock?db=2"


@pytest.mark.usefixtures("executed")
@pytest.mark.parametrize(
    ("name", "requirement"), [("worker", "dbt-relay[worker]"), ("flower", "dbt-relay[flower]")]
)
def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, requirement: str
) -> None:
    import importlib.util

    found = importlib.util.find_spec

    def without(module: str) -> Any:
        if module == "dbt.adapters":
            raise ModuleNotFoundError(module)
        return None if module == "flower" else found(module)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert cli.main([name]) == 2
    assert f'pip install "{requirement}"' in capsys.readouterr().err


# ---------------------------------------------------------------- the demonstration


class Runner:
    """In place of `DbtRunner`."""

    def __init__(self, project: Path, *, workers: int, on_event: Callable[[Event], None]) -> None:
        self.project, self.workers, self.on_event = project, workers, on_event
        self.calls: list[tuple[list[str], int | None]] = []
        Runner.last = self

    last: Runner
    failing: str = ""

    def execute_command(
        self, words: list[str], simulation_year: int | None = None, *, stream_output: bool = True
    ) -> DbtResult:
        assert stream_output is False
        self.calls.append((words, simulation_year))
        name = "show" if "show" in words else words[0]
        self.on_event(Event(kind=LINE, run_id=RUN_ID, text=f"line of {name} {simulation_year}"))
        if self.failing in (name, f"{name} {simulation_year}"):
            return result(1, error=BROKEN)
        nodes = tuple(
            NodeResult(
                unique_id=f"{kind}.w.{node}",
                name=node,
                resource_type=kind,
                status="success",
                execution_time=0.25,
            )
            for kind, node in (("model", "hires"), ("test", "t1"), ("test", "t2"), ("unit_test", "u1"))
        )
        rows = [{"simulation_year": 2025, "ending_headcount": 2232, "growth_rate": 0.0295, "note": None}]
        stdout = "noise\n" + json.dumps({"show": rows}, indent=2) + "\n"
        return result(nodes=nodes if name == "build" else (), stdout=stdout)


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, project: Path) -> type[Runner]:
    import producer.demo

    monkeypatch.setattr(producer.demo, "DbtRunner", Runner)
    monkeypatch.setattr(Runner, "failing", "")
    (project / "dbt").mkdir()
    return Runner


def test_demo_builds_each_year_and_prints_tables(
    demo: type[Runner], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "--last-year", "2026", "--workers", "3"]) == 0
    text = capsys.readouterr().out
    runner = demo.last
    assert (runner.project, runner.workers) == (Path("dbt"), 3)
    assert [(words[0], year) for words, year in runner.calls[:3]] == [
        ("deps", None),
        ("build", 2025),
        ("build", 2026),
    ]
    for part in (
        "line of deps None",
        "line of build 2026",
        "2 data tests",
        "1 unit tests",
        "Headcount by year",
        "2.95 %",
    ):
        assert part in text
    hires = next(row.split() for row in text.splitlines() if row.startswith("hires"))
    assert hires == ["hires", "model", "0.25", "0.25"]
    assert "line of show" not in text


@pytest.mark.parametrize(
    ("failing", "calls"), [("deps", 1), ("build 2025", 2), ("build 2026", 3), ("show", 5)]
)
def test_demo_stops_at_a_failure(
    demo: type[Runner],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failing: str,
    calls: int,
) -> None:
    monkeypatch.setattr(demo, "failing", failing)
    assert cli.main(["demo"]) == 1
    assert len(demo.last.calls) == calls
    assert "Fix: Did you mean amount?" in capsys.readouterr().out


def test_demo_without_rows_is_an_error() -> None:
    from producer.demo import rows_shown

    with pytest.raises(ValueError, match="printed no rows"):
        rows_shown("nothing here")


@pytest.mark.parametrize(
    "words", [["demo", "--project", "nowhere"], ["demo", "--first-year", "2027", "--last-year", "2026"]]
)
def test_demo_refuses_invalid_options(
    demo: type[Runner], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert cli.main(words) == 2
    assert "Invalid value" in capsys.readouterr().err
