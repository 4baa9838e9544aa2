"""State that hooks and models keep between them: other processes, attempts and runs see what plain dbt would."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from dbt.version import installed

from tests.support.background import SHORT_LEASES, Background
from tests.support.engine import Ran, Shared, drive, spec_for
from tests.support.postgres_server import PostgresDatabase
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import runner
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool
from workers.contract.events import LINE, Event
from workers.engine.engine import Engine
from workers.engine.interface import RunFacts, StepOutcome
from workers.engine.warehouse.concurrency import close_warehouse


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keeps")


@pytest.fixture(scope="module")
def engines() -> Iterator[list[Engine]]:
    """Engines of two processes: the first parses, the second unpacks the manifest."""
    shared = Shared()
    yield [Engine(shared), Engine(shared)]
    close_warehouse()


def environment(folder: Path, side: str) -> dict[str, str]:
    return {"RELAY_TEST_DUCKDB": str(folder / side / "kept.duckdb"), "DBT_ENV_CUSTOM_ENV_where": "here"}


def kept_lines(lines: list[str]) -> list[str]:
    return [line[line.index("KEPT") :] for line in lines if "KEPT" in line]


@pytest.fixture(scope="module")
def plain(folder: Path) -> Mapping[str, Any]:
    """Lines, rows and configs of a run of project `keeps` with plain dbt."""
    project = copy_project("keeps", folder / "plain")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dbt")), "run"],
        cwd=project, env={**os.environ, **environment(folder, "plain")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return {"lines": kept_lines(done.stdout.splitlines()), **left_in(project)}


@pytest.fixture(scope="module")
def ours(folder: Path, engines: list[Engine]) -> Mapping[str, Any]:
    """The same with two engines in turn, and the lines of a second run."""
    project = copy_project("keeps", folder / "ours")
    ran = [drive(engines, spec_for(project, "run", env=environment(folder, "ours"))) for _ in range(2)]
    assert [each.finished.return_code for each in ran] == [0, 0], "\n".join(ran[-1].lines)
    close_warehouse()
    return {"lines": kept_lines(ran[0].lines), "again": kept_lines(ran[1].lines), **left_in(project)}


def left_in(project: Path) -> dict[str, Any]:
    """Rows of the models, and their configs in manifest.json."""
    manifest = json.loads((project / "target" / "manifest.json").read_text())
    with duckdb.connect(str(project / "kept.duckdb")) as database:
        names = ("first", "second", "third")
        rows = {name: database.sql(f"from {name}").fetchall() for name in names}
    configs = {unique_id: node["config"] for unique_id, node in manifest["nodes"].items()}
    return {"rows": rows, "configs": configs, "environment": manifest["metadata"]["env"]}


def test_on_run_end_sees_changes_of_hooks_and_models(
    plain: Mapping[str, Any], ours: Mapping[str, Any]
) -> None:
    assert len(plain["lines"]) > 20
    assert ours["lines"] == plain["lines"]


def test_models_see_changes_of_other_models(plain: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    assert ours["rows"] == plain["rows"]


def test_manifest_json_contains_configs_changed_by_other_nodes(
    plain: Mapping[str, Any], ours: Mapping[str, Any]
) -> None:
    assert plain["configs"]["model.keeps.first"]["notes"] == {"of": ["first", "second"], "by": "second"}
    assert ours["configs"] == plain["configs"]
    assert ours["environment"] == plain["environment"]


def test_next_run_starts_from_the_parsed_state(ours: Mapping[str, Any]) -> None:
    assert ours["again"] == ours["lines"]


# -- attempts, failures, concurrent nodes -------------------------------------------------------------

PROFILE = """
tiny:
  target: dev
  outputs:
    dev: {type: duckdb, path: tiny.duckdb, schema: main, threads: 1}
"""


class Steps:
    """A run whose steps a test executes on engines of its choice."""

    def __init__(self, project: Path, engine: Engine, *args: str) -> None:
        self.spec = spec_for(project, *args)
        self.events: list[Event] = []
        self.stream: list[bytes] = []
        self.outcomes: list[StepOutcome] = []
        plan = engine.plan(self.spec, self.events.append)
        self.facts = msgspec.json.decode(msgspec.json.encode(plan.facts), type=RunFacts)
        self.started = self.store(engine.start(self.spec, self.facts, self.events.append))

    def store(self, outcome: StepOutcome) -> StepOutcome:
        """Store a result, as the ledger does."""
        self.stream += [change.encode() for change in outcome.cache]
        if outcome.result.unique_id != "@start":
            self.outcomes.append(outcome)
        return outcome

    def execute(self, engine: Engine, name: str, attempt: int = 1) -> StepOutcome:
        """Execute a model, without storing its result."""
        return engine.node(
            self.spec, self.facts, f"model.tiny.{name}", 1, self.events.append,
            changes=lambda position: self.stream[position:], attempt=attempt,
        )  # fmt: skip

    def close(self, engine: Engine) -> list[str]:
        """Close the run; return its lines that begin with KEPT."""
        engine.close(
            self.spec, self.facts, self.started.result, [each.result for each in self.outcomes],
            self.events.append, changes=lambda position: self.stream[position:],
        )  # fmt: skip
        return kept_lines([event.text for event in self.events if event.kind == LINE])


@pytest.fixture
def tiny(tmp_path: Path, engines: list[Engine]) -> Iterator[Callable[..., Path]]:
    """Return a function that writes a project with a start hook, an end hook and models."""

    def make(start: str, end: str, **models: str) -> Path:
        project = tmp_path / "tiny"
        (project / "models").mkdir(parents=True)
        hooks = {"on-run-start": start, "on-run-end": end}
        settings = {"name": "tiny", "version": "1.0.0", "profile": "tiny", **hooks}
        (project / "dbt_project.yml").write_text(json.dumps(settings))
        (project / "profiles.yml").write_text(PROFILE)
        for name, code in models.items():
            (project / "models" / f"{name}.sql").write_text(code)
        return project

    assert engines
    yield make
    close_warehouse()


APPEND = "{% do graph['kept']['names'].append(model.name) if execute %}"
START = "{% do graph.update({'kept': {'names': []}}) if execute %}"
END = "{% do log('KEPT ' ~ graph['kept']['names'] | sort, info=true) if execute %}"


def test_attempt_without_a_stored_result_is_undone(tiny: Callable[..., Path], engines: list[Engine]) -> None:
    run = Steps(tiny(START, END, one=APPEND + "select 1 as id"), engines[0], "run")
    lost = run.execute(engines[0], "one")
    assert lost.cache  # other processes would repeat it
    run.store(run.execute(engines[0], "one", attempt=2))
    assert run.close(engines[1]) == ["KEPT ['one']"]


def test_changes_of_a_failed_node_stay(tiny: Callable[..., Path], engines: list[Engine]) -> None:
    run = Steps(tiny(START, END, one=APPEND + "select * from nowhere"), engines[0], "run")
    assert run.store(run.execute(engines[0], "one")).result.status == "error"
    assert run.close(engines[1]) == ["KEPT ['one']"]


def test_changes_of_concurrent_nodes_are_combined(tiny: Callable[..., Path], engines: list[Engine]) -> None:
    code = APPEND + "select 1 as id"
    run = Steps(tiny(START, END, one=code, two=code, three=code), engines[0], "run")
    first, second = run.execute(engines[0], "one"), run.execute(engines[1], "two")
    run.store(second)
    run.store(first)
    run.store(run.execute(engines[0], "three"))
    assert run.close(engines[0]) == ["KEPT ['one', 'three', 'two']"]


def test_interleaved_runs_do_not_see_each_others_changes(
    tiny: Callable[..., Path], engines: list[Engine]
) -> None:
    code = APPEND + "select {{ graph['kept']['names'] | length if execute else 0 }} as id"
    project = tiny(START, END, one=code, two=code)
    runs = [Steps(project, engines[0], "run"), Steps(project, engines[0], "run")]
    for name in ("one", "two"):
        for run in runs:
            run.store(run.execute(engines[0], name))
    assert [run.close(engines[0]) for run in runs] == [["KEPT ['one', 'two']"]] * 2


ITERATOR = "{% do graph.update({'kept': {'names': modules.itertools.cycle(['a'])}}) if execute %}"
"""An iterator cannot be transferred to another process."""


def test_value_that_cannot_be_transferred_is_an_error_on_use(
    tiny: Callable[..., Path], engines: list[Engine]
) -> None:
    uses = "{% do graph.kept.names.count if execute %}"
    unused = "{% set held = graph.kept.names if execute %}"
    end = "{% do log('KEPT ' ~ (graph.kept.names is none), info=true) if execute %}"
    project = tiny(ITERATOR, end, one=uses + "select 1 as id", two=unused + "select 2 as id")
    run = Steps(project, engines[0], "run")
    failed = run.store(run.execute(engines[1], "one")).result
    assert failed.status == "error"
    assert "kept a value of type itertools.cycle" in (failed.message or "")
    assert run.store(run.execute(engines[1], "two")).result.status == "success"
    assert run.close(engines[1]) == ["KEPT False"]


def test_local_lists_of_a_template_are_not_recorded(tiny: Callable[..., Path], engines: list[Engine]) -> None:
    code = (
        "{% set own = [] %}{% do own.append(graph.nodes | length) %}{% set more = {} %}{% do more.update(a=own) %}"
        "{% do graph.get('kept', {}).setdefault('names', []) %}select 1 as id"
    )
    run = Steps(tiny(START, END, one=code), engines[0], "run")
    assert not [change for change in run.execute(engines[1], "one").cache if "templates" in change]


# -- files of the graph ----------------------------------------------------------------------------


def graph_files(project: Path) -> tuple[dict[str, Any], Any]:
    target = project / "target"
    summary = json.loads((target / "graph_summary.json").read_text())
    return summary, pickle.loads((target / "graph.gpickle").read_bytes())


def run_again(engine: Engine, project: Path, *args: str) -> Ran:
    ran = drive(engine, spec_for(project, *args))
    assert ran.finished.return_code == 0, "\n".join(ran.lines)
    return ran


def test_each_command_of_a_warm_process_writes_its_graph_files(
    tiny: Callable[..., Path], engines: list[Engine]
) -> None:
    project = tiny("select 1", "select 1", one="select 1 as id", two="select * from {{ ref('one') }}")
    run_again(engines[0], project, "run")
    first, graph = graph_files(project)
    assert set(first) == {"_invocation_id", "linked"}
    run_again(engines[0], project, "build")
    assert "with_test_edges" in graph_files(project)[0]
    spec = spec_for(project, "run")
    (project / "target" / "graph.gpickle").write_bytes(b"of an earlier command")
    assert drive(engines[0], spec).finished.return_code == 0
    again, graph_again = graph_files(project)
    assert again == {"_invocation_id": spec.invocation_id, "linked": first["linked"]}
    assert dict(graph_again.nodes) == dict(graph.nodes)
    assert set(graph_again.edges) == set(graph.edges)


# -- real workers ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_on_run_end_sees_changes_of_a_killed_process(
    tmp_path: Path,
    worker_pool: Callable[..., WorkerPool],
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RELAY_TEST_TARGET", "duckdb")
    monkeypatch.setenv("RELAY_TEST_DUCKDB", str(tmp_path / "slow.duckdb"))
    project = copy_project("slow", tmp_path / "project")
    with (project / "dbt_project.yml").open("a") as settings:
        settings.write("""
on-run-start: "{% do graph.update({'mark': {'n': 7, 'nested': {'list': []}}}) %}"
on-run-end: "{{ log('MARK ' ~ graph.get('mark').get('n') ~ graph['mark']['nested']['list'], info=true) }}"
""")
    last = project / "models" / "last.sql"
    last.write_text("{% do graph['mark']['nested']['list'].append('last') if execute %}\n" + last.read_text())
    worker_pool(n=2, env=SHORT_LEASES)
    run = Background(project, redis_server.broker_url, seconds=0.5)
    wait_until(lambda: run.has_line("working on last"), 60, "the last node to run")
    os.kill(run.worker_of("last"), signal.SIGKILL)
    result = run.wait()
    assert result.success, result.stdout[-2000:]
    assert [event.node for event in run.events if event.state == "lost"] == ["model.slow.last"]
    assert re.search(r"MARK 7\['last'\]", result.stdout)


@pytest.mark.slow
@pytest.mark.postgres
def test_models_on_three_processes_see_changes_of_on_run_start(
    tmp_path: Path,
    worker_pool: Callable[..., WorkerPool],
    redis_server: RedisServer,
    postgres_database: PostgresDatabase,
) -> None:
    env = {**postgres_database.env, "RELAY_TEST_TARGET": "postgres", "RELAY_TEST_SCHEMA": "public"}
    project = copy_project("slow", tmp_path / "project")
    with (project / "dbt_project.yml").open("a") as settings:
        settings.write("""
on-run-start: "{% do graph.update({'mark': invocation_id}) %}"
""")
    for model in (project / "models").iterdir():
        model.unlink()
    names = [f"m{number}" for number in range(6)]
    code = "{{ config(materialized='table') }}\n{{ wait() }}\nselect '{{ graph.get('mark') == invocation_id }}' as ok"
    for name in names:
        (project / "models" / f"{name}.sql").write_text(code)
    worker_pool(n=3, env={**SHORT_LEASES, **env})
    result = runner(redis_server, project, env=env).execute_command(
        ["run"], dbt_vars={"seconds": 0.5}, stream_output=False
    )
    assert result.success, result.stdout[-2000:]
    assert len({node.worker for node in result.nodes if node.resource_type == "model"}) > 1
    rows = [postgres_database.query(f"select ok from {name}") for name in names]
    assert rows == [[("True",)]] * len(names)


COUNT_COMPILED = """\
{{ config(materialized='table') }}
{% set ancestors = ['model.slow.p0', 'model.slow.p1', 'model.slow.p2', 'model.slow.p3', 'model.slow.inlined'] %}
{% set compiled = [] %}
{% for name in ancestors if execute and graph.nodes[name].compiled_code %}{% do compiled.append(name) %}{% endfor %}
{{ wait() }}
select {{ compiled | length }} as compiled from {{ ref('inlined') }}
-- {{ ref('p0') }} {{ ref('p1') }} {{ ref('p2') }} {{ ref('p3') }}
"""


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.skipif(int(installed.minor or 0) < 12, reason="graph shows compiled nodes from dbt-core 1.12 on")
def test_models_on_two_processes_see_their_ancestors_compiled(
    tmp_path: Path,
    worker_pool: Callable[..., WorkerPool],
    redis_server: RedisServer,
    postgres_database: PostgresDatabase,
) -> None:
    env = {**postgres_database.env, "RELAY_TEST_TARGET": "postgres", "RELAY_TEST_SCHEMA": "public"}
    project = copy_project("slow", tmp_path / "project")
    for model in (project / "models").iterdir():
        model.unlink()
    parents, children = ([f"{kind}{number}" for number in range(4)] for kind in "pc")
    codes = dict.fromkeys(parents, "{{ config(materialized='table') }}\n{{ wait() }}\nselect 1 as id")
    codes["inlined"] = "{{ config(materialized='ephemeral') }} select * from {{ ref('p0') }}"
    codes.update(dict.fromkeys(children, COUNT_COMPILED))
    for name, code in codes.items():
        (project / "models" / f"{name}.sql").write_text(code)
    worker_pool(n=2, env={**SHORT_LEASES, **env})
    result = runner(redis_server, project, env=env).execute_command(
        ["run"], dbt_vars={"seconds": 0.5}, stream_output=False
    )
    assert result.success, result.stdout[-2000:]
    workers = {node.name: node.worker for node in result.nodes}
    assert len({workers[name] for name in parents}) == len({workers[name] for name in children}) == 2
    assert [postgres_database.query(f"select compiled from {name}") for name in children] == [[(5,)]] * 4
