"""Measures what each patch of `workers.engine.patches.catalog` saves: CPU time of one process, with and without it.

    python scripts/patch_savings.py [PATCH …] [--rounds 60] [--models 200] [--relations 1000]

A warm engine runs, without Redis and Celery, in a project of MODELS models on DuckDB, whose schema holds RELATIONS tables:

- run: `run --select` of one model; parts: plan, start, node, close.
- test: `test --select` of one generic test of the project.
- vars: the plan of `run` with another value of a var that one model reads.

A round does this once with the patch and once without, in changing order. The table shows, for each part, the median
of the CPU time without the patch, and how much of it the median round saved. See `catalog.Patch.saving`.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests.support

from workers.engine.startup import prepare_import

prepare_import()

import duckdb
import msgspec

from workers.engine.patches import registry
from workers.engine.patches.catalog import CATALOG, Patch
from workers.engine.patches.registry import DISABLED, ON, State, is_for_this_release, resolve

ORIGINALS = {each.name: resolve(each.target) for each in CATALOG if each.target and is_for_this_release(each)}

from tests.support.engine import Shared, spec_for
from workers.engine.engine import Engine
from workers.engine.interface import StepResult, encode

REPLACEMENTS = {each.name: resolve(each.target) for each in CATALOG if each.name in ORIGINALS}

Spent = dict[str, float]

PROFILE = """bench:
  target: duckdb
  outputs:
    duckdb: {type: duckdb, path: "{{ env_var('RELAY_BENCH_DUCKDB') }}", schema: main, threads: 1, settings: {threads: 1}}
"""


def write_project(folder: Path, models: int, relations: int) -> Path:
    """A project of small models with two generic tests each, and a warehouse with many tables."""
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text(
        "name: bench\nversion: '1.0'\nprofile: bench\nmodels: {+materialized: table}\nvars: {used: 1, other: 1}\n"
    )
    (folder / "profiles.yml").write_text(PROFILE)
    entries = []
    for number in range(models):
        source = f"{{{{ ref('m_{number - 1:04}') }}}}" if number else "(select 1 as id)"
        var = "{{ config(meta={'used': var('used')}) }}\n" if number == models - 1 else ""
        (folder / "models" / f"m_{number:04}.sql").write_text(
            f"{var}select id, {{{{ var('other') }}}} as value from {source}\n"
        )
        entries.append(
            f"  - name: m_{number:04}\n    columns: [{{name: id, data_tests: [not_null, unique]}}]\n"
        )
    (folder / "models" / "schema.yml").write_text("models:\n" + "".join(entries))
    with duckdb.connect(str(folder / "bench.duckdb")) as connection:
        for number in range(relations):
            connection.execute(f"create table t_{number:04} as select 1 as id")
        connection.execute("create table m_0000 as select 1 as id")
    return folder


def use(patch: Patch, *, on: bool) -> None:
    """Put a patch in place or take it away."""
    registry._states[patch.name] = State(patch.name, ON if on else DISABLED)
    if patch.target:
        owner, attribute = registry._owner(patch.target)
        setattr(owner, attribute, (REPLACEMENTS if on else ORIGINALS)[patch.name])


class Workload:
    """The engine's steps, timed."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.engine = Engine(Shared(), worker="benchmark")
        self.values = itertools.count(2)
        self.spent: Spent = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the CPU time of a block, milliseconds."""
        began = time.process_time()
        yield
        self.spent[name] = self.spent.get(name, 0.0) + (time.process_time() - began) * 1000

    def spec(self, *args: str) -> Any:
        """A run of dbt's arguments."""
        return spec_for(self.project, *args, env={"RELAY_BENCH_DUCKDB": str(self.project / "bench.duckdb")})

    def execute(self, name: str, *args: str) -> None:
        """A whole run, of which each step is timed."""
        spec, said = self.spec(*args), []
        with self.timed(f"{name}: plan"):
            plan = self.engine.plan(spec, said.append)
        facts = msgspec.structs.replace(plan.facts, began=time.time())
        with self.timed(f"{name}: start"):
            started = self.engine.start(spec, facts, said.append)
        changes, results = [each.encode() for each in started.cache], []
        for index, planned in enumerate(plan.nodes, 1):
            with self.timed(f"{name}: node"):
                done = self.engine.node(
                    spec, facts, planned.unique_id, index, said.append, changes=lambda at: changes[at:]
                )
            assert done.result.status in {"success", "pass"}, done.result.message
            changes += [each.encode() for each in done.cache]
            results.append(msgspec.json.decode(encode(done.result), type=StepResult))
        with self.timed(f"{name}: close"):
            first = msgspec.json.decode(encode(started.result), type=StepResult)
            self.engine.close(spec, facts, first, results, said.append, changes=lambda at: changes[at:])
        self.engine.release()
        self.engine.forget(spec.run_id)

    def plan_with_other_var(self) -> None:
        """Plan a run with a value of the var that was not there before."""
        spec = self.spec("run", "--select", "m_0000", "--vars", f"used: {next(self.values)}")
        with self.timed("vars: plan"):
            self.engine.plan(spec, lambda _: None)
        self.engine.forget(spec.run_id)

    def round(self, *, parses: bool) -> Spent:
        """All of it once."""
        self.spent = {}
        self.execute("run", "run", "--select", "m_0000")
        self.execute("test", "test", "--select", "not_null_m_0000_id")
        if parses:
            self.plan_with_other_var()
        for name in ("run", "test"):
            parts = [took for part, took in self.spent.items() if part.startswith(f"{name}:")]
            self.spent[f"{name}: all"] = sum(parts)
        return self.spent


def measure(work: Workload, patch: Patch, rounds: int, *, parses: bool) -> dict[str, tuple[float, float]]:
    """Of each part: milliseconds without the patch, and milliseconds that it saves."""
    without, saved = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for number in range(rounds):
        found: dict[bool, Spent] = {}
        for on in (True, False) if number % 2 else (False, True):
            use(patch, on=on)
            found[on] = work.round(parses=parses)
        for part, took in found[False].items():
            without[part].append(took)
            saved[part].append(took - found[True][part])
    use(patch, on=True)
    return {part: (statistics.median(without[part]), statistics.median(saved[part])) for part in without}


def main() -> int:
    """Print a table for each patch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("patches", nargs="*", metavar="PATCH")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--relations", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Workload(write_project(Path(folder) / "project", options.models, options.relations))
        for _ in range(3):
            work.round(parses=True)
        gc.collect()
        gc.freeze()
        for patch in CATALOG:
            if options.patches and patch.name not in options.patches:
                continue
            if not registry.enabled(patch.name):
                print(f"{patch.name}: not in place here")
                continue
            parses = patch.name in {"changed-vars", "templates"}
            rounds = options.rounds // 10 if patch.name == "changed-vars" else options.rounds
            for part, (took, saved) in measure(work, patch, rounds, parses=parses).items():
                print(f"{patch.name:18}{part:14}{took:9.2f} ms{saved:9.2f} ms{saved / took:8.1%}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
