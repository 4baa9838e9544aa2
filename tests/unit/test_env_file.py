"""Environment of a run: a worker checks everything that a request contributes to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from workers.contract.errors import DbtUsageError
from workers.contract.keys import new_run_id
from workers.contract.messages import RunRequest
from workers.contract.settings import Settings
from workers.runs import env_file, runtime
from workers.runs.runtime import spec_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "stack" / "env").mkdir(parents=True)
    return Settings(runtime_dir=str(tmp_path / "stack"))


def write_file(path: Path) -> Path:
    path.write_text('{"A": "1"}')
    return path


def test_environment_file_of_the_stack_is_read_and_removed(settings: Settings) -> None:
    path = write_file(Path(settings.runtime_dir) / "env" / "r.json")
    assert env_file.read(str(path), settings) == {"A": "1"}
    env_file.remove(str(path), settings)
    assert not path.exists()


OUTSIDE = {
    "another folder": "other.json",
    "a path with parent folders": "stack/env/../../other.json",
    "the folder's parent": "stack/other.json",
    "the folder": "stack/env",
    "a folder below": "stack/env/below/other.json",
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_file_outside_the_env_folder_is_neither_read_nor_removed(
    case: str, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "stack" / "env" / "below").mkdir()
    path = tmp_path / OUTSIDE[case]
    if not path.is_dir():
        write_file(path)
    with pytest.raises(DbtUsageError, match="environment"):
        env_file.read(str(path), settings)
    env_file.remove(str(path), settings)
    assert path.exists()


def test_symlink_out_of_the_env_folder_is_not_followed(settings: Settings, tmp_path: Path) -> None:
    link = Path(settings.runtime_dir) / "env" / "r.json"
    link.symlink_to(write_file(tmp_path / "secret.json"))
    with pytest.raises(DbtUsageError, match="cannot be read"):
        env_file.read(str(link), settings)
    env_file.remove(str(link), settings)
    assert (tmp_path / "secret.json").exists()


def test_named_pipe_does_not_block_the_worker(settings: Settings) -> None:
    pipe = Path(settings.runtime_dir) / "env" / "r.json"
    os.mkfifo(pipe)
    with pytest.raises(DbtUsageError, match="regular file"):
        env_file.read(str(pipe), settings)


def test_worker_without_a_stack_reads_no_environment_file(tmp_path: Path) -> None:
    with pytest.raises(DbtUsageError, match="belongs to none"):
        env_file.read(str(write_file(tmp_path / "r.json")), Settings())


def spec(monkeypatch: pytest.MonkeyPatch, deny: str | None = None, **fields: Any) -> Any:
    settings = Settings() if deny is None else Settings(env_deny=deny)
    monkeypatch.setattr(runtime, "settings", settings)
    request = RunRequest(run_id=new_run_id(), args=("run",), cwd="/p", project_dir="/p", **fields)
    return spec_of(request, invocation_id="i", started_at=0.0)


FORGED = {
    "PATH": "/evil", "GIT_SSH_COMMAND": "/evil", "LD_PRELOAD": "/evil.so", "PYTHONSTARTUP": "/evil.py", "BASH_ENV": "/evil",
    "DBT_RELAY_BROKER_URL": "redis://evil", "DBT_ENV_SECRET_X": "evil",
}  # fmt: skip


def test_denied_names_of_a_request_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Producers drop them, too, but any program that can write to Redis can send a request."""
    made = spec(monkeypatch, env={**FORGED, "REGION": "north"})
    assert made.env["REGION"] == "north"
    assert not {value for value in made.env.values() if "evil" in value}
    assert made.env["PATH"] == os.environ["PATH"]


def test_workers_own_deny_list_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "REGION" not in spec(monkeypatch, deny="REG*", env={"REGION": "north"}).env
    assert spec(monkeypatch, deny="none", env={"GIT_AUTHOR": "me"}).env["GIT_AUTHOR"] == "me"


def test_embedded_callers_environment_is_complete(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """The caller is the same user on the same machine, so no name is denied."""
    path = Path(settings.runtime_dir) / "env" / "r.json"
    path.write_bytes(msgspec.json.encode({"PATH": "/mine", "A": "1"}))
    monkeypatch.setattr(runtime, "settings", settings)
    request = RunRequest(run_id=new_run_id(), args=("run",), cwd="/p", project_dir="/p", env_file=str(path))
    assert spec_of(request, invocation_id="i", started_at=0.0).env == {"PATH": "/mine", "A": "1"}
