"""``dbt-relay verify``: parsing of its arguments, and dbt's arguments and environment in a copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.cli import main as cli
from producer.cli.verify import commands_of
from producer.cli.verify_job import job_of, own_environment
from tests.support.projects import copy_project
from workers.contract.errors import DbtUsageError
from workers.contract.verify_job import REFUSED, VerifyCommand


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_project("small", tmp_path / "small")


def test_then_separates_commands() -> None:
    words = ["build", "--select", "a", "b", "--then", "run", "--vars", "{y:1}", "--then", "test"]
    assert commands_of(words) == [["build", "--select", "a", "b"], ["run", "--vars", "{y:1}"], ["test"]]


@pytest.mark.parametrize("words", ["", "--then", "build --then", "--then build", "build --then --then run"])
def test_empty_command_is_an_error(words: str) -> None:
    with pytest.raises(DbtUsageError, match="verify needs a dbt command"):
        commands_of(words.split())


def test_paths_into_the_project_become_relative(project: Path) -> None:
    outside = project.parent / "artifacts"
    outside.mkdir()
    words = [
        *("--log-path", "/elsewhere", "run", "--project-dir", str(project), "--profiles-dir", str(project)),
        *("--select", "a", "b", "--state", "small/target", "--defer-state", str(outside)),
        *("--target-path", str(project / "out"), "--vars", "{year: 2026}"),
    ]
    job, _ = job_of([words], cwd=project.parent, environ={})
    assert job.project_dir == str(project)
    (command,) = job.commands
    assert command.target_path == "out"
    assert command.args == (
        *("run", "--select", "a", "b", "--state", "target", "--defer-state", str(outside)),
        *("--target-path", "out", "--vars", "{year: 2026}"),
    )


def test_paths_in_the_environment_become_relative(project: Path) -> None:
    given = {
        "DBT_PROJECT_DIR": ".",
        "DBT_ENGINE_LOG_PATH": "/elsewhere",
        "DBT_STATE": str(project / "target"),
        "DBT_ENV_SECRET_X": "kept",
    }
    _, environ = job_of([["build"], ["deps"]], cwd=project, environ=given)
    assert environ == {
        "DBT_PROFILES_DIR": str(project),
        "DBT_PROJECT_DIR": str(project),
        "DBT_STATE": "target",
        "DBT_ENV_SECRET_X": "kept",
    }


def test_commands_without_a_profile_are_marked(project: Path) -> None:
    job, _ = job_of([["deps"], ["build"]], cwd=project, environ={}, measured=["luck"], keep=True)
    assert job.commands == (
        VerifyCommand(args=("deps",), reads_profile=False),
        VerifyCommand(args=("build",)),
    )
    assert (job.measured, job.keep) == (("luck",), True)


def test_workers_environment_has_no_dbt_relay_settings_of_the_caller() -> None:
    mine = {"A": "1", "DBT_RELAY_QUEUE": "q", "REDIS_URL": "redis://elsewhere"}
    assert own_environment(mine, {"DBT_RELAY_RUNTIME_DIR": "/run"}) == {
        "A": "1",
        "DO_NOT_TRACK": "1",
        "DBT_RELAY_RUNTIME_DIR": "/run",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify"], "verify needs a dbt command"),
        (["verify", "build", "--then"], "on both sides of --then"),
        (["verify", "biuld"], "Did you mean 'build'?"),
        (["verify", "build", "--selct", "a"], "No such option '--selct'"),
        (["verify", "--workers", "0", "build"], "--workers"),
        (["verify", "build", "--target", "nowhere"], "does not have a target named 'nowhere'"),
        (["verify", "build", "--project-dir", ".."], "No dbt_project.yml found"),
        (["verify", "build", "--target-path", "../out"], "outside the project"),
        (["verify", "build", "--help"], "dbt-relay build --help"),
        (["verify", "--version"], "verify runs dbt commands"),
        (["verify", "docs", "serve"], "never ends"),
        (["verify", "init", "x", "--skip-profile-setup"], "nothing to compare"),
        (["verify", "build", "--then", "build", "--profiles-dir", "sub"], "several projects or profiles"),
    ],
)
def test_bad_input_is_an_error_before_anything_starts(
    words: list[str],
    message: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (project / "sub").mkdir()
    (project / "sub" / "profiles.yml").write_text((project / "profiles.yml").read_text())
    monkeypatch.chdir(project)
    assert cli.main(words) == REFUSED
    shown = capfd.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_missing_worker_packages_are_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.chdir(project)
    assert cli.main(["verify", "build"]) == REFUSED
    assert 'pip install "dbt-relay[worker]"' in capfd.readouterr().err
