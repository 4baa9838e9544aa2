"""Patches are put in place only over the source that they were tested with, and runs are the same without them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import each_patch
from tests.support.worker_pool import WorkerPools
from workers.contract.errors import DbtUsageError
from workers.engine.patches import registry
from workers.engine.patches.catalog import CATALOG, Patch
from workers.engine.project import parse_reads as watching_module
from workers.engine.project.parse_messages import CHECKS
from workers.engine.project.parse_reads import Recorder

ROOT = Path(__file__).parents[2]


def fashioned() -> str:
    """What a patch of these tests replaces."""
    return "dbt's"


def replacement() -> str:
    return "ours"


def patch(name: str = "fashioned", **more: Any) -> Patch:
    here = __name__
    return Patch(
        name=name, target=f"{here}:fashioned", replacement=f"{here}:replacement", reason="a test", **more
    )  # fmt: skip


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No patch was decided on yet, and the one of these tests is undone."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _module())
    monkeypatch.setattr(registry, "_states", {})
    monkeypatch.setattr(sys.modules[__name__], "fashioned", fashioned)


def _module() -> Any:
    module = types.ModuleType(__name__)
    module.__dict__.update(globals())
    return module


def in_place() -> str:
    return str(sys.modules[__name__].fashioned())


def know(monkeypatch: pytest.MonkeyPatch, *digests: str | None) -> None:
    monkeypatch.setattr(registry, "known_digests", lambda: {"fashioned": {str(each): [] for each in digests}})


def test_known_source_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, registry.digest_of(patch()))
    registry.apply(catalog=[patch()])
    assert (in_place(), registry.enabled("fashioned"), registry.skipped()) == ("ours", True, ())


@pytest.mark.parametrize(
    "unknown",
    [patch(), patch(repeats=("dbt.graph:Graph.no_such_method",)), patch(repeats=("no_such_module:x",))],
)
def test_unknown_source_stays_dbts(monkeypatch: pytest.MonkeyPatch, unknown: Patch) -> None:
    know(monkeypatch, "0123456789abcdef")
    registry.apply(catalog=[unknown])
    registry.apply(catalog=[unknown])
    assert (in_place(), registry.enabled("fashioned"), registry.skipped()) == ("dbt's", False, ("fashioned",))


def test_setting_turns_patches_off(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, registry.digest_of(patch()))
    for setting in ("fashioned", " fashioned ,", "off"):
        monkeypatch.setattr(registry, "_states", {})
        registry.apply(setting, [patch()])
        assert (in_place(), registry.enabled("fashioned"), registry.skipped()) == ("dbt's", False, ())
        assert registry.disabled() == ("fashioned",)


def test_setting_with_an_unknown_name_is_refused() -> None:
    with pytest.raises(DbtUsageError, match=r"DBT_RELAY_PATCHES='evnts': evnts is unknown.*events"):
        registry.apply("evnts")


def test_each_patch_has_a_known_digest_for_the_installed_release() -> None:
    assert len({each.name for each in CATALOG}) == len(CATALOG)
    for each in CATALOG:
        if registry.is_for_this_release(each):
            assert registry.digest_of(each) in registry.known_digests()[each.name], (
                f"{each.name}: run scripts/patch_digests.py, see docs/dbt-releases.md"
            )


def test_digest_of_changed_vars_covers_each_function_that_its_recording_wraps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrapped: list[tuple[Any, str]] = []

    @contextlib.contextmanager
    def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
        wrapped.append((owner, name))
        yield

    monkeypatch.setattr(watching_module, "replaced", replaced)
    config = SimpleNamespace(cli_vars={}, load_dependencies=dict)
    with watching_module.watching(config, Recorder()):  # type: ignore[arg-type]
        pass
    (entry,) = (each for each in CATALOG if each.name == "changed-vars")
    sources = [registry.resolve(name) for name in entry.sources]
    unchecked = {"context_class", *CHECKS}  # an attribute, and checks that are only called
    assert len(wrapped) > 15
    for owner, name in wrapped:
        if name not in unchecked:
            assert getattr(owner, name) in sources or owner in sources, f"{owner}.{name}"


def test_a_run_is_the_same_without_each_patch(copy_project: Callable[..., Path]) -> None:
    project = copy_project("small")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.each_patch", str(project)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(json.loads(line) for line in done.stdout.splitlines())
    assert set(found) == set(each_patch.settings())
    disabled = {setting: set(each.pop("disabled")) for setting, each in found.items()}
    expected = found[each_patch.ALL_ON]
    assert expected["code"] == 0
    assert len(expected["rows"]) >= 4
    for setting, result in found.items():
        assert result == expected, setting
        everything = {each.name for each in CATALOG}
        assert disabled[setting] == ({setting} if setting in everything else everything if setting else set())


def test_worker_names_the_patches_it_skipped_once_and_runs(
    worker_pool: WorkerPools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source of `Graph.get_subset_graph` is another, as with a release of dbt to come."""
    (tmp_path / "sitecustomize.py").write_text(
        "import inspect\n"
        "of_python = inspect.getsource\n"
        "def source(thing):\n"
        "    return of_python(thing) + ('# of 1.13' if getattr(thing, '__name__', '') == 'get_subset_graph' else '')\n"
        "inspect.getsource = source\n"
    )
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    pool = worker_pool(n=2, env={"PYTHONPATH": path})
    lines = [line for line in pool.log().splitlines() if "functions of dbt are not replaced" in line]
    assert len(lines) == 1
    assert '"patches": "selected-graph"' in lines[0]
