"""Modules of callers are imported again in each run; modules of the worker's installation are not."""

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


def imported(modules: CallerModules, run: str, name: str, path: Path) -> ModuleType:
    with modules.for_run(run, {"PYTHONPATH": str(path)}, "/"):
        return importlib.import_module(name)


def test_relative_and_empty_entries_are_resolved_in_the_callers_folder(tmp_path: Path) -> None:
    before = sys.path[:]
    with CallerModules().for_run("run", {"PYTHONPATH": f"src:{tmp_path}/lib::src"}, str(tmp_path)):
        assert sys.path[:3] == [str(tmp_path / "src"), str(tmp_path / "lib"), str(tmp_path)]
        sys.path.append("/added")
    assert sys.path == before


def test_path_added_by_a_run_stays_until_the_next_run() -> None:
    modules = CallerModules()
    with modules.for_run("one", {}, "/"):
        sys.path.append("/added")
    with modules.for_run("one", {}, "/"):
        assert sys.path[-1] == "/added"
    with modules.for_run("two", {}, "/"):
        assert "/added" not in sys.path


def test_pythonpath_of_the_first_caller_is_not_used_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = CallerModules()
    with modules.for_run("one", {"PYTHONPATH": str(tmp_path)}, "/"):
        assert str(tmp_path) in sys.path
    with modules.for_run("two", {}, "/"):
        assert str(tmp_path) not in sys.path


def test_namespace_packages_are_unloaded(tmp_path: Path) -> None:
    modules = CallerModules()
    for name in ("one", "two"):
        part = tmp_path / name / "relay_unit_space" / "part.py"
        part.parent.mkdir(parents=True)
        part.write_text(f"VALUE = {name!r}\n")
        assert name == imported(modules, name, "relay_unit_space.part", tmp_path / name).VALUE


def test_new_module_file_is_found_in_the_next_run(tmp_path: Path) -> None:
    modules = CallerModules()
    with pytest.raises(ModuleNotFoundError):
        imported(modules, "one", "relay_unit_code", tmp_path)
    (tmp_path / "relay_unit_code.py").write_text("VALUE = 1\n")
    assert imported(modules, "two", "relay_unit_code", tmp_path).VALUE == 1


def test_package_with_an_extension_module_stays_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "relay_unit_native.py").write_text("")
    modules = CallerModules()
    first = imported(modules, "one", "relay_unit_native", tmp_path)
    monkeypatch.setattr(python_modules, "ExtensionFileLoader", type(first.__spec__.loader))  # type: ignore[union-attr]
    assert imported(modules, "two", "relay_unit_native", tmp_path) is first


def test_warnings_are_shown_again_in_each_run_and_filters_are_restored(tmp_path: Path) -> None:
    (tmp_path / "relay_unit_code.py").write_text("import warnings\ndef warn(): warnings.warn('each run')\n")
    modules = CallerModules()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        filters = warnings.filters[:]
        code = imported(modules, "one", "relay_unit_code", tmp_path)
        sys.modules["relay_unit_kept"] = code
        for run, expected in (("one", 1), ("one", 1), ("two", 2)):
            with modules.for_run(run, {}, "/"):
                code.warn()
            assert len(shown) == expected
        with modules.for_run("two", {}, "/"):
            warnings.simplefilter("ignore")
        assert warnings.filters == filters
    del sys.modules["relay_unit_kept"]
