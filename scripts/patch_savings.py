"""Measures what each patch of `workers.engine.patches.catalog` saves: CPU time of one process, with and without it.

    python scripts/patch_savings.py [PATCH …] [--rounds 10] [--models 200] [--relations 1000] [--built 20]

A warm engine, without Redis and Celery, builds BUILT small models and their tests, of a project of MODELS models on
DuckDB whose schema holds RELATIONS tables. Every other run is planned, started and closed without the patch; every
other node is executed without it. For `changed-vars`, a run is planned with another value of a var that one model reads.

For each step, the table shows the median of the CPU time without the patch, and how much less it is with it. Two
further columns count only the CPU time within the replaced function: more exact for a small saving, too high for a patch
that leaves work for later.
"""

# ruff: noqa: E402 - dbt is imported once the process is prepared
# ruff: noqa: SLF001 - the registry has no use for a patch that is taken away again
from __future__ import annotations

import argparse
import functools
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
from dbt_common.events.event_manager import EventManager
from dbt_common.events.event_manager_client import ctx_set_event_manager

from workers.engine.patches import registry
from workers.engine.patches.catalog import CATALOG, Patch
from workers.engine.patches.registry import DISABLED, ON, State, is_for_this_release, resolve

ORIGINALS = {each.name: resolve(each.target) for each in CATALOG if each.target and is_for_this_release(each)}

from tests.support.engine import Shared, spec_for  # puts the patches in place
from workers.engine.engine import Engine
from workers.engine.interface import StepResult, encode

REPLACEMENTS = {each.name: resolve(each.target) for each in CATALOG if each.name in ORIGINALS}

OF_A_RUN = frozenset({"cached-relations"})
"""Patches that a run has from its first step to its last."""

Samples = dict[str, dict[bool, list[tuple[float, float]]]]
"""Milliseconds by step, with and without the patch: of all, and within the function."""

PROFILE = """bench:
  target: duckdb
  outputs:
    duckdb: {type: duckdb, path: "{{ env_var('RELAY_BENCH_DUCKDB') }}", schema: main, threads: 1, settings: {threads: 1}}
"""


def write_project(folder: Path, models: int, relations: int) -> Path:
    """A project of small models with two generic tests each, and a warehouse with many tables."""
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text(
        "name: bench\nversion: '1.0'\nprofile: bench\nmodels: {+materialized: table}\nvars: {used: 1, other: one}\n"
    )
    (folder / "profiles.yml").write_text(PROFILE)
    entries = []
    for number in range(models):
        config = "{{ config(meta={'used': var('used')}) }}\n" if number == models - 1 else ""
        (folder / "models" / f"m_{number:04}.sql").write_text(
            f"{config}select 1 as id, '{{{{ var('other') }}}}' as value\n"
        )
        entries.append(
            f"  - name: m_{number:04}\n    columns: [{{name: id, data_tests: [not_null, unique]}}]\n"
        )
    (folder / "models" / "schema.yml").write_text("models:\n" + "".join(entries))
    with duckdb.connect(str(folder / "bench.duckdb")) as connection:
        for number in range(relations):
            connection.execute(f"create table t_{number:04} as select 1 as id")
    return folder


def use(patch: Patch, *, on: bool, spent: list[float]) -> None:
    """Put a patch in place or take it away; CPU time of the function, seconds, is added to `spent`."""
    registry._states[patch.name] = State(patch.name, ON if on else DISABLED)
    if patch.target:
        owner, attribute = registry._owner(patch.target)
        function = (REPLACEMENTS if on else ORIGINALS)[patch.name]

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[0] += time.thread_time() - began

        setattr(owner, attribute, timed)
    if patch.name == "debug-events" and not on:
        ctx_set_event_manager(EventManager())  # the engine replaces it where the patch is on


class Measurement:
    """A warm engine, and one patch that is put in place and taken away between its steps."""

    def __init__(self, project: Path, engine: Engine, patch: Patch, built: int) -> None:
        self.project, self.engine, self.patch, self.built = project, engine, patch, built
        self.samples: Samples = defaultdict(lambda: {True: [], False: []})

    @contextmanager
    def timed(self, step: str, *, on: bool) -> Iterator[None]:
        """Take a sample."""
        spent = [0.0]
        use(self.patch, on=on, spent=spent)
        began = time.process_time()
        yield
        self.samples[step][on].append(((time.process_time() - began) * 1000, spent[0] * 1000))

    def spec(self, *args: str) -> Any:
        """A run of dbt's arguments."""
        return spec_for(self.project, *args, env={"RELAY_BENCH_DUCKDB": str(self.project / "bench.duckdb")})

    def build(self, number: int) -> None:
        """One run."""
        spec, on = (
            self.spec("build", "--select", *(f"m_{each:04}" for each in range(self.built))),
            bool(number % 2),
        )
        events: list[Any] = []
        changes: list[bytes] = []

        def changes_from(position: int) -> list[bytes]:
            return changes[position:]

        with self.timed("plan", on=on):
            plan = self.engine.plan(spec, events.append)
        facts = msgspec.structs.replace(plan.facts, began=time.time())
        with self.timed("start", on=on):
            started = self.engine.start(spec, facts, events.append)
        changes += [each.encode() for each in started.cache]
        results = []
        for index, node in enumerate(sorted(plan.nodes, key=lambda node: node.resource_type), 1):
            of_node = on if self.patch.name in OF_A_RUN else bool((number + index) % 2)
            with self.timed(node.resource_type, on=of_node):
                done = self.engine.node(
                    spec, facts, node.unique_id, index, events.append, changes=changes_from
                )
            if done.result.status not in {"success", "pass"}:
                raise RuntimeError(done.result.message)
            changes += [each.encode() for each in done.cache]
            results.append(msgspec.json.decode(encode(done.result), type=StepResult))
        with self.timed("close", on=on):
            first = msgspec.json.decode(encode(started.result), type=StepResult)
            self.engine.close(spec, facts, first, results, events.append, changes=changes_from)
        self.engine.release()
        self.engine.forget(spec.run_id)

    def plan(self, number: int, value: int) -> None:
        """Plan a run with another value of a var."""
        spec = self.spec("run", "--select", "m_0000", "--vars", f"used: {value}")
        with self.timed("plan", on=bool(number % 2)):
            self.engine.plan(spec, lambda _: None)
        self.engine.forget(spec.run_id)


def report(name: str, samples: Samples) -> None:
    """Print a line for each step."""
    for step, found in samples.items():
        without, own_without = map(statistics.median, zip(*found[False], strict=True))
        with_patch, own_with = map(statistics.median, zip(*found[True], strict=True))
        saved, own = without - with_patch, own_without - own_with
        print(
            f"{name:18}{step:8}{without:9.2f} ms{saved:9.2f} ms{saved / without:8.1%}{own:9.3f} ms{own / without:8.2%}",
            flush=True,
        )


def main() -> int:
    """Print a table for each patch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("patches", nargs="*", metavar="PATCH")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--relations", type=int, default=1000)
    parser.add_argument("--built", type=int, default=20)
    options = parser.parse_args()
    values = itertools.count(2)
    with tempfile.TemporaryDirectory() as folder:
        project = write_project(Path(folder) / "project", options.models, options.relations)
        engine = Engine(Shared(), worker="benchmark")
        for number in range(2):
            Measurement(project, engine, CATALOG[0], options.built).build(number)
        gc.collect()
        gc.freeze()
        for patch in CATALOG:
            if options.patches and patch.name not in options.patches:
                continue
            if not registry.enabled(patch.name):
                print(f"{patch.name}: not in place here")
                continue
            measurement = Measurement(project, engine, patch, options.built)
            for number in range(options.rounds):
                if patch.name == "changed-vars":
                    measurement.plan(number, next(values))
                else:
                    measurement.build(number)
            use(patch, on=True, spent=[0.0])
            report(patch.name, measurement.samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
