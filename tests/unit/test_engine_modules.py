"""A run's modules: the caller's code anew in each run, the worker's installation never."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from workers.engine.caller import python_modules
from workers.engine.caller.python_modules import CallerModules

NAMES = ("relay_unit_code", "relay_unit_space", "relay_unit_native")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    for name in list(sys.modules):
        if name.partition(".")[0] in NAMES:
            del sys.modules[name]


def imported(held: CallerModules, run: str, name: str, path: Path) -> ModuleType:
    with held.for_run(run, {"PYTHONPATH": str(path)}, "/"):
        return importlib.import_module(name)


def test_relative_and_empty_entries_belong_to_the_callers_folder(tmp_path: Path) -> None:
    before = sys.path[:]
    with CallerModules().for_run("run", {"PYTHONPATH": f"src:{tmp_path}/lib::src"}, str(tmp_path)):
        assert sys.path[:3] == [str(tmp_path / "src"), str(tmp_path / "lib"), str(tmp_path)]
        sys.path.append("/added")
    assert sys.path == before


def test_what_a_run_adds_to_the_path_stays_until_another_begins() -> None:
    held = CallerModules()
    with held.for_run("one", {}, "/"):
        sys.path.append("/added")
    with held.for_run("one", {}, "/"):
        assert sys.path[-1] == "/added"
    with held.for_run("two", {}, "/"):
        assert "/added" not in sys.path


def test_the_path_of_the_caller_that_started_the_worker_is_not_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    held = CallerModules()
    with held.for_run("one", {"PYTHONPATH": str(tmp_path)}, "/"):
        assert str(tmp_path) in sys.path
    with held.for_run("two", {}, "/"):
        assert str(tmp_path) not in sys.path


def test_namespace_packages_are_forgotten_too(tmp_path: Path) -> None:
    held = CallerModules()
    for name in ("one", "two"):
        part = tmp_path / name / "relay_unit_space" / "part.py"
        part.parent.mkdir(parents=True)
        part.write_text(f"VALUE = {name!r}\n")
        assert name == imported(held, name, "relay_unit_space.part", tmp_path / name).VALUE


def test_a_new_file_is_found_at_once(tmp_path: Path) -> None:
    held = CallerModules()
    with pytest.raises(ModuleNotFoundError):
        imported(held, "one", "relay_unit_code", tmp_path)
    (tmp_path / "relay_unit_code.py").write_text("VALUE = 1\n")
    assert imported(held, "two", "relay_unit_code", tmp_path).VALUE == 1


def test_a_package_with_an_extension_module_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "relay_unit_native.py").write_text("")
    held = CallerModules()
    first = imported(held, "one", "relay_unit_native", tmp_path)
    monkeypatch.setattr(python_modules, "ExtensionFileLoader", type(first.__spec__.loader))  # type: ignore[union-attr]
    assert imported(held, "two", "relay_unit_native", tmp_path) is first


def test_a_warning_is_shown_in_each_run_again_and_filters_are_put_back(tmp_path: Path) -> None:
    (tmp_path / "relay_unit_code.py").write_text("import warnings\ndef warn(): warnings.warn('each run')\n")
    held = CallerModules()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        filters = warnings.filters[:]
        code = imported(held, "one", "relay_unit_code", tmp_path)
        sys.modules["relay_unit_kept"] = code
        for run, expected in (("one", 1), ("one", 1), ("two", 2)):
            with held.for_run(run, {}, "/"):
                code.warn()
            assert len(shown) == expected
        with held.for_run("two", {}, "/"):
            warnings.simplefilter("ignore")
        assert warnings.filters == filters
    del sys.modules["relay_unit_kept"]
