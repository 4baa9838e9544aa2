"""A warm process uses what dbt would inherit from the run's caller, as plain dbt does."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from tests.support.engine import Ran, Shared, drive, spec_for
from tests.support.processes import without_coverage
from workers.contract.events import STDERR
from workers.contract.process_attributes import SOFT_LIMITS, ProcessAttributes
from workers.engine.engine import Engine
from workers.engine.warehouse.concurrency import close_warehouse

Copy = Callable[..., Path]
DBT = Path(sys.executable).with_name("dbt")


class Warm:
    """A warm process: this one, with one engine for all runs."""

    def __init__(self, project: Path) -> None:
        self.project, self.engine = project, Engine(Shared())

    def run(
        self, *select: str, env: Mapping[str, str] | None = None, project: Path | None = None, **more: Any
    ) -> Ran:
        """Run ``dbt run --select …`` for a caller with the test's environment plus `env`."""
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # pytest turns warnings into errors
            warnings.showwarning = lambda *what, **_: sys.stderr.write(warnings.formatwarning(*what[:4]))
            spec = spec_for(project or self.project, "run", "--select", *select, env=env, **more)
            ran = drive(self.engine, spec)
        close_warehouse()
        assert ran.finished.return_code == 0, ran.lines
        return ran


@pytest.fixture
def caller(copy_project: Copy, duckdb_file: Path) -> Iterator[Path]:
    yield copy_project("caller")
    close_warehouse()


@pytest.fixture
def warm(caller: Path) -> Warm:
    return Warm(caller)


def rows(table: str, file: Path | None = None) -> list[tuple[Any, ...]]:
    with duckdb.connect(file or os.environ["RELAY_TEST_DUCKDB"], read_only=True) as connection:
        return connection.sql(f"from {table}").fetchall()


def plain(project: Path, file: Path, *select: str, env: Mapping[str, str], limits: str = "") -> Any:
    """Run plain ``dbt run --select …`` from a shell that sets the caller's umask and limits."""
    return subprocess.run(
        ["sh", "-c", f'{limits} exec "$0" "$@"', str(DBT), "run", "--select", *select],
        cwd=project, env={**without_coverage(), "RELAY_TEST_DUCKDB": str(file), **env}, capture_output=True, check=True,
    )  # fmt: skip


@contextlib.contextmanager
def soft_limit(number: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(number)
    resource.setrlimit(number, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(number, before)


def attributes() -> tuple[Any, ...]:
    """The attributes of this process that steps change."""
    umask = os.umask(0o022)
    os.umask(umask)
    limits = [resource.getrlimit(getattr(resource, name)) for name in SOFT_LIMITS]
    return os.getcwd(), umask, dict(os.environ), sys.path[:], time.tzname, limits


def test_inherited_attributes_equal_those_of_plain_dbt(
    warm: Warm, copy_project: Copy, tmp_path: Path
) -> None:
    beside = copy_project("caller", tmp_path / "beside")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {
        "TZ": "Asia/Kolkata", "TMPDIR": str(temporary), "LC_ALL": "C.UTF-8", "PYTHONPATH": "relay_test_path",
        "RELAY_TEST_BYTES": os.fsdecode(b"\xff\xfe"),
    }  # fmt: skip
    plain(beside, tmp_path / "beside.duckdb", "inherited", "zone", env=env,
          limits="umask 077; ulimit -S -n 800; ulimit -S -c 0; ulimit -S -f 4000000; ulimit -S -s 4096;")  # fmt: skip
    limits = {
        "RLIMIT_NOFILE": 800, "RLIMIT_CORE": 0, "RLIMIT_FSIZE": 4_000_000 * 512, "RLIMIT_STACK": 4096 * 1024,
    }  # fmt: skip
    tempfile.gettempdir()  # caches the folder, as an earlier run does
    with soft_limit(resource.RLIMIT_NOFILE, 700):
        before = attributes()
        warm.run("zone")
        warm.run("inherited", "zone", env=env, surroundings=ProcessAttributes(umask=0o077, limits=limits))
        assert attributes() == before
    ((here,),), ((there,),) = rows("inherited"), rows("inherited", tmp_path / "beside.duckdb")
    assert json.loads(here) == json.loads(there.replace(str(beside), str(warm.project)))
    assert json.loads(here)["umask"] == "0077"
    assert rows("zone") == rows("zone", tmp_path / "beside.duckdb") == [("Asia/Kolkata", "05:30")]
    mode = stat.S_IMODE((warm.project / "target" / "run_results.json").stat().st_mode)
    assert mode == stat.S_IMODE((beside / "target" / "run_results.json").stat().st_mode) == 0o600


def test_each_run_has_its_callers_time_zone(warm: Warm) -> None:
    warm.run("zone")
    own = rows("zone")
    for zone in ("Pacific/Kiritimati", "EST5EDT"):
        warm.run("zone", "inherited", env={"TZ": zone})
        assert rows("zone")[0][0] == zone
    assert json.loads(rows("inherited")[0][0])["zone"] == "19:00 EST"
    warm.run("zone")
    assert rows("zone") == own


def test_edited_module_is_imported_again(warm: Warm, tmp_path: Path) -> None:
    code = tmp_path / "relay_test_path" / "relay_test_code.py"
    code.parent.mkdir()
    for variable in ("PYTHONPATH", "RELAY_TEST_MODULES"):
        for value in ("one", "another"):
            code.write_text(f'VALUE = "{value}"\nuses = 0\n')
            for _ in range(2):  # the second run must not see the first run's module state
                warm.run("imported", env={variable: str(code.parent)})
                assert rows("imported") == [(value, 1)]


def test_projects_with_modules_of_the_same_name_each_get_their_own(warm: Warm, tmp_path: Path) -> None:
    for name in ("first", "second"):
        package = tmp_path / name / "relay_test_code"
        package.mkdir(parents=True)
        (package / "part.py").write_text(f'VALUE = "{name}"\n')
        (package / "__init__.py").write_text("from relay_test_code.part import VALUE\nuses = 0\n")
    for name in ("first", "second", "first"):
        warm.run("imported", env={"RELAY_TEST_MODULES": str(tmp_path / name)})
        assert rows("imported") == [(name, 1)]
    # as in plain dbt, the paths of a project come after those of the caller
    both = {"RELAY_TEST_MODULES": str(tmp_path / "first"), "PYTHONPATH": str(tmp_path / "second")}
    warm.run("imported", env=both)
    assert rows("imported") == [("second", 1)]


def test_module_stays_loaded_within_a_run(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "relay_test_code.py").write_text('VALUE = "same"\nuses = 0\n')
    model = warm.project / "models" / "imported.py"
    (model.parent / "imported_too.py").write_text(model.read_text())
    warm.run("imported", "imported_too", env={"PYTHONPATH": str(tmp_path)})
    assert rows("imported") + rows("imported_too") == [("same", 1), ("same", 2)]


def test_installed_modules_stay_loaded(warm: Warm, tmp_path: Path) -> None:
    model = warm.project / "models" / "imported.py"
    model.write_text(model.read_text().replace("import relay_test_code", "import this, relay_test_code"))
    (tmp_path / "relay_test_code.py").write_text('VALUE = "same"\nuses = 0\n')
    sys.modules.pop("this", None)
    warm.run("imported", env={"PYTHONPATH": str(tmp_path)})
    installed = sys.modules["this"]
    warm.run("zone")
    assert sys.modules["this"] is installed
    assert "relay_test_code" not in sys.modules
    (tmp_path / "this.py").write_text("")
    warm.run("imported", env={"PYTHONPATH": str(tmp_path)})
    assert sys.modules["this"] is not installed  # the caller's path comes first


def test_output_of_code_equals_that_of_plain_dbt(warm: Warm, copy_project: Copy, tmp_path: Path) -> None:
    done = plain(copy_project("caller", tmp_path / "beside"), tmp_path / "beside.duckdb", "said", env={})
    ran = warm.run("said")
    descriptors = len(os.listdir("/proc/self/fd"))
    again = warm.run("said")  # warnings are shown once per process, so again in each run
    assert len(os.listdir("/proc/self/fd")) == descriptors
    expected = done.stdout.decode(errors="backslashreplace").splitlines()
    first, last = (next(i for i, line in enumerate(expected) if word in line) for word in ("print", "begun"))
    for each in (ran, again):
        begun = next(i for i, line in enumerate(each.lines) if line == "print")
        assert each.lines[begun : begun + last - first] == expected[first:last]
        assert each.lines[begun + last - first].startswith("begun \x1b[0m")
        assert without_paths(each.errors) == without_paths(done.stderr.decode().splitlines())
    assert {event.node for event in ran.events if event.stream == STDERR} == {"model.caller.said"}


def without_paths(lines: list[str]) -> list[str]:
    """Lines without the path of the temporary file to which dbt-duckdb writes a model."""
    return [line[line.index(".py:") :] if ".py:" in line else line for line in lines]


def test_worker_continues_after_its_folders_were_deleted(
    warm: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("start", "temporary", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "start")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))  # cached by an earlier use
    for name in ("start", "temporary", "home"):
        (tmp_path / name).rmdir()
    warm.run("inherited")
    assert json.loads(rows("inherited")[0][0])["cwd"] == str(warm.project)
    with pytest.raises(FileNotFoundError):
        os.getcwd()


def test_missing_working_directory_is_an_error_with_a_fix(warm: Warm, tmp_path: Path) -> None:
    spec = msgspec.structs.replace(spec_for(warm.project, "run"), cwd=str(tmp_path / "elsewhere"))
    ran = drive(warm.engine, spec)
    assert ran.finished.return_code == 2
    assert ran.finished.error is not None
    for word in (str(tmp_path / "elsewhere"), "No such file or directory", "DBT_RELAY_PROJECT_DIR"):
        assert word in ran.finished.error.message
    assert "[Errno" not in ran.finished.error.message
