"""A process is prepared for dbt by one call; importing the engine replaces nothing of dbt."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from workers.contract.errors import DbtUsageError
from workers.engine import startup
from workers.engine.caller import env_file
from workers.engine.patches import registry
from workers.engine.patches.catalog import CATALOG, NEEDED
from workers.engine.startup import UnsupportedDbtError, prepare

ROOT = Path(__file__).parents[2]

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
import dbt.cli.main, dbt.mp_context, duckdb
from workers.engine.patches.catalog import CATALOG, NEEDED
from workers.engine.patches.registry import exists, resolve

names = [patch.target for patch in CATALOG if patch.target] + [each for needed in NEEDED for each in needed.targets]
before = {name: resolve(name) for name in names if exists(name)}
import workers.engine
for module in pkgutil.walk_packages(workers.engine.__path__, "workers.engine."):
    importlib.import_module(module.name)
print(sorted(name for name, found in before.items() if resolve(name) is not found))
from workers.engine.startup import prepare
prepare()
from workers.engine.patches.registry import install_needed
from workers.engine.patches.catalog import WITH_ADAPTER
install_needed(WITH_ADAPTER)
print(sorted(name for name, found in before.items() if resolve(name) is found))
"""


def test_importing_the_engine_replaces_nothing_and_prepare_does() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING],
        cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, "DBT_RELAY_PATCHES": ""},
    )  # fmt: skip
    by_import, left = (ast.literal_eval(line) for line in done.stdout.splitlines())
    assert by_import == []
    not_needed = {each.target for each in CATALOG if each.target and not registry.is_for_this_release(each)}
    assert set(left) - {"dbt.cli.main:load_dotenv"} == not_needed  # dbt's own, called by each step


def test_needed_replacements_name_functions_that_exist() -> None:
    for each in NEEDED:
        assert registry.exists(each.install), each.name
        assert each.reason
        assert each.check


def test_prepare_refuses_an_unknown_patch_name() -> None:
    with pytest.raises(DbtUsageError, match="no-such-patch is unknown"):
        prepare("no-such-patch")


def test_prepare_does_nothing_without_dbt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "find_spec", lambda _: None)
    monkeypatch.setattr(startup, "prepare_import", lambda: pytest.fail("dbt is not there"))
    prepare()


def test_env_file_that_dbt_has_read_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cli: Any = ModuleType("dbt.cli.main")
    cli.find_dotenv = lambda usecwd: str(tmp_path / ".env")
    monkeypatch.setitem(sys.modules, "dbt.cli.main", cli)
    monkeypatch.setattr(env_file, "_imported_here", False)
    with pytest.raises(UnsupportedDbtError, match=r"dbt was imported before .*\.env"):
        prepare()


def test_import_of_dbt_leaves_the_environment_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """dbt-core 1.12 adds the variables of a .env file when its command line is imported."""
    (tmp_path / "relay_unit_cli.py").write_text("import os\nos.environ['RELAY_UNIT'] = 'of a .env file'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(env_file, "_COMMAND_LINE", "relay_unit_cli")
    monkeypatch.setattr(env_file, "_imported_here", False)
    env_file.import_dbt()
    assert "RELAY_UNIT" not in os.environ
    del sys.modules["relay_unit_cli"]
