"""Process attributes of a caller (umask, limits, time zone, …), and how they reach the worker."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from producer.dbt_cli import arguments
from producer.session import Follower, Stack
from workers.contract.environment import NAMES, zone_name
from workers.contract.errors import DbtUsageError, RelayError
from workers.contract.events import Event, decode_event, encode_event
from workers.contract.keys import new_run_id
from workers.contract.messages import RunRequest, decode_request, encode_request
from workers.contract.process_attributes import (
    LIMITS,
    UMASK,
    ProcessAttributes,
    decode_process_attributes,
    encode_process_attributes,
)
from workers.contract.settings import Settings, read_settings
from workers.engine.caller.invocation import dbt_environment
from workers.runs import runtime
from workers.runs.runtime import spec_of

NOT_UTF8 = os.fsdecode(b"caf\xe9")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dbt_project.yml").write_text("name: p\nprofile: p\n")
    return tmp_path


def request_of(
    project: Path, environ: dict[str, str], runtime_dir: Path | None = None
) -> tuple[RunRequest, Any]:
    follower = Follower.__new__(Follower)  # not connected: sends nothing
    follower.stack = Stack(broker_url="redis://nowhere", runtime_dir=runtime_dir)
    follower.settings = read_settings(environ)
    invocation = arguments.parse_invocation(["run"], environ=environ, cwd=project)
    return follower.request(invocation, cwd=project, environ=environ)


def test_umask_and_limits_are_those_of_this_process() -> None:
    before = os.umask(0o037)
    try:
        given = decode_process_attributes(encode_process_attributes())
    finally:
        os.umask(before)
    assert given.umask == 0o037
    assert given.limits["RLIMIT_NOFILE"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize(
    "nonsense", ["", "rwx", "{", "[1]", '{"RLIMIT_NOFILE": "many"}', '{"RLIMIT_CPU": 1}']
)
def test_unreadable_surroundings_are_ignored(nonsense: str) -> None:
    env = {UMASK: nonsense, LIMITS: nonsense}
    assert decode_process_attributes(env) == ProcessAttributes()


@pytest.fixture
def worker_of_the_stack(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process a worker of the stack whose runtime folder is the project's folder."""
    monkeypatch.setattr(runtime, "settings", Settings(runtime_dir=str(project)))


@pytest.mark.usefixtures("worker_of_the_stack")
def test_embedded_worker_gets_environment_and_surroundings(project: Path) -> None:
    environ = {"TZ": "Asia/Tokyo", "NAME": NOT_UTF8, "PYTHONPATH": "src"}
    request, env_file = request_of(project, environ, project)
    assert decode_request(encode_request(request)).env_file == str(env_file)
    spec = spec_of(request, invocation_id="", started_at=0.0)
    assert spec.env == environ  # dbt does not see the variables that carry the attributes
    assert spec.surroundings == decode_process_attributes(encode_process_attributes())


def test_older_release_ignores_unknown_names() -> None:
    # workers of all releases read the file as names and strings, and drop dbt-relay's names
    assert dbt_environment({"A": "b", **encode_process_attributes()}) == {"A": "b"}
    raw = msgspec.json.decode(encode_event(Event(kind="line", run_id="r", text="x", stream="stderr")))
    assert decode_event(msgspec.json.encode({**raw, "of_a_later_release": 1})).text == "x"


@pytest.mark.usefixtures("worker_of_the_stack")
def test_environment_file_of_an_older_release_is_accepted(project: Path) -> None:
    (project / "env").mkdir()
    env_file = project / "env" / "r.json"
    env_file.write_text('{"A": "b"}')
    request = RunRequest(run_id=new_run_id(), args=("run",), cwd="/", project_dir="/", env_file=str(env_file))
    spec = spec_of(request, invocation_id="", started_at=0.0)
    assert (dict(spec.env), spec.surroundings) == ({"A": "b"}, ProcessAttributes())


def test_remote_worker_gets_only_the_time_zone(project: Path) -> None:
    off = {"DBT_RELAY_PROJECT_CHECK": "off"}
    request, env_file = request_of(project, {"TZ": "Asia/Tokyo", "PYTHONPATH": "src", **off})
    assert (request.env, env_file) == ({"TZ": "Asia/Tokyo", NAMES: '[[],["PYTHONPATH"]]'}, None)
    spec = spec_of(request, invocation_id="", started_at=0.0)
    assert (spec.env["TZ"], spec.surroundings) == ("Asia/Tokyo", ProcessAttributes())
    denied, _ = request_of(project, {"TZ": "Asia/Tokyo", "DBT_RELAY_ENV_DENY": "TZ", **off})
    assert denied.env == {NAMES: '[[],["TZ"]]'}


def test_machines_time_zone_is_used_without_tz(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "readlink", lambda _: "../usr/share/zoneinfo/America/New_York")
    assert zone_name({}) == "America/New_York"
    assert zone_name({"TZ": ""}) == ""
    monkeypatch.setattr(os, "readlink", lambda _: "/elsewhere")
    assert zone_name({}) is None


def test_unwritable_environment_file_is_an_error_with_a_fix(project: Path) -> None:
    with pytest.raises(RelayError, match="DBT_RELAY_RUNTIME_DIR"):
        request_of(project, {}, project / "gone")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"args": ("run", "--select", NOT_UTF8)}, "the arguments"),
        ({"cwd": f"/{NOT_UTF8}"}, "the working directory"),
        ({"env": {"NAME": NOT_UTF8}}, "the environment values"),
    ],
)
def test_request_with_invalid_utf8_names_the_field(changed: dict[str, Any], named: str) -> None:
    request = RunRequest(run_id=new_run_id(), args=("run",), cwd="/", project_dir="/")
    with pytest.raises(DbtUsageError, match=rf"{named} \(.*caf\\udce9\)"):
        encode_request(msgspec.structs.replace(request, **changed))


IN_LATIN_1 = """
import os, sys
from workers.engine.caller.inherited import inherit_from_caller
from workers.engine.interface import RunSpec

def encoding(**env):
    spec = RunSpec(run_id="r", args=(), cwd="/", project_dir="/", env={**os.environ, **env}, invocation_id="",
                   started_at=0.0)
    with inherit_from_caller(spec):
        return open(os.devnull).encoding.lower()

print(encoding(LC_ALL=sys.argv[1]), encoding(LC_ALL="C"), encoding(LC_ALL="xx_YY"), open(os.devnull).encoding.lower())
"""


@pytest.mark.skipif(shutil.which("localedef") is None, reason="localedef is not installed")
def test_default_file_encoding_is_that_of_the_callers_locale(tmp_path: Path) -> None:
    locale = tmp_path / "de_DE.ISO-8859-1"
    made = subprocess.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(locale)], check=False)
    if made.returncode:
        pytest.skip("locale sources are not installed")
    env = {**os.environ, "LOCPATH": str(tmp_path), "LC_ALL": "C.UTF-8", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", IN_LATIN_1, locale.name], env=env, capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stdout.split() == ["iso-8859-1", "utf-8", "utf-8", "utf-8"]
    plain = {**env, "LC_ALL": locale.name}
    shown = subprocess.run([sys.executable, "-c", "print(open('/dev/null').encoding.lower())"], env=plain,
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert shown.stdout.split() == ["iso-8859-1"]
