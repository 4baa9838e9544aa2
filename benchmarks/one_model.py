"""One model on a warm worker, beside plain dbt: whole wall from submit to result.

    python benchmarks/one_model.py [--models 20] [--rounds 7] [--json FILE]

Four ways, in turn, on copies of one project and a DuckDB file each: the demonstration, or with ``--models`` one of
so many tables:

- ``relay``: ``DbtRunner.execute_command`` against a warm stack of one worker process
- ``relay command``: ``dbt-relay run --select …`` as a process against the same stack
- ``dbt command``: ``dbt run --select …`` as a process, partial parse warm
- ``dbtRunner``: dbt's own programmatic interface in one process, partial parse warm

Then where the time of ``relay`` goes within the engine (`one_model_parts`). On a machine that does other things
look at CPU: wall is comparable within one call alone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from one_model_parts import table

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
DEMONSTRATION = "stg_census"


def generated(folder: Path, name: str, models: int) -> Path:
    """A project of so many tables, each of one that is named before it, all of them in its file."""
    import duckdb

    target = folder / name
    (target / "models").mkdir(parents=True)
    (target / "dbt_project.yml").write_text(
        "name: many\nversion: '1.0'\nprofile: many\nmodels: {many: {+materialized: table}}\n"
    )
    (target / "profiles.yml").write_text(
        "many:\n  target: dev\n  outputs:\n    dev:\n      type: duckdb\n      schema: main\n      threads: 4\n"
        "      path: \"{{ env_var('DATABASE_PATH') }}\"\n"
    )
    with duckdb.connect(str(target / "simulation.duckdb")) as connection:
        connection.begin()
        for number in range(models):
            sql = (
                f"select * from {{{{ ref('m_{number // 2}') }}}}" if number else "select 1 as id, 'x' as name"
            )
            folder_of = target / "models" / f"part_{number // 100}"
            folder_of.mkdir(exist_ok=True)
            (folder_of / f"m_{number}.sql").write_text(sql)
            connection.execute(f"create table m_{number} as select 1 as id, 'x' as name")
        connection.commit()
    return target


def project(folder: Path, name: str, models: int, model: list[str]) -> Path:
    """A generated project, or a copy of the demonstration with its seeds loaded, once run by plain dbt."""
    if models:
        target = generated(folder, name, models)
        subprocess.run(
            [BIN / "dbt", *model], cwd=target, env=environment(target), check=True, capture_output=True
        )
        return target
    target = folder / name
    shutil.copytree(
        ROOT / "dbt", target, ignore=shutil.ignore_patterns("target", "logs", "*.duckdb", "dbt_packages")
    )
    env = environment(target)
    for args in (["deps"], ["seed"], model):
        subprocess.run([BIN / "dbt", *args], cwd=target, env=env, check=True, capture_output=True)
    return target


def environment(target: Path) -> dict[str, str]:
    """What dbt sees in a copy."""
    return {**os.environ, "DO_NOT_TRACK": "1", "DATABASE_PATH": str(target / "simulation.duckdb")}


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> int:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=int, default=0, help="of a generated project; 0: the demonstration")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = ["run", "--select", f"m_{options.models - 1}" if options.models else DEMONSTRATION]
    from producer.embedded import EmbeddedStack
    from producer.runner import DbtRunner

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, theirs, inside = (
            project(folder, each, options.models, model) for each in ("ours", "plain", "inside")
        )
        with EmbeddedStack(workers=1, environ={**os.environ, "DO_NOT_TRACK": "1"}) as stack:
            info = stack.start()
            stack.wait_ready()
            relay_env = {**environment(ours), "DBT_RELAY_BROKER_URL": info.broker_url}
            runner = DbtRunner(ours, threads=0, environ=relay_env)
            os.environ.update(environment(inside))
            from dbt.cli.main import dbtRunner

            dbt_runner = dbtRunner()

            def in_process() -> None:
                with (
                    contextlib.chdir(inside) if sys.version_info >= (3, 11) else contextlib.nullcontext(),
                    contextlib.redirect_stdout(io.StringIO()),
                ):
                    assert dbt_runner.invoke([*model, "--project-dir", str(inside)]).success

            ways: dict[str, Callable[[], object]] = {
                "relay": lambda: runner.execute_command(model, stream_output=False),
                "relay command": lambda: subprocess.run(
                    [BIN / "dbt-relay", *model], cwd=ours, env=relay_env, check=True, capture_output=True
                ),
                "dbt command": lambda: subprocess.run(
                    [BIN / "dbt", *model],
                    cwd=theirs,
                    env=environment(theirs),
                    check=True,
                    capture_output=True,
                ),
                "dbtRunner": in_process,
            }
            for work in ways.values():  # warm
                work()
            times: dict[str, list[float]] = {each: [] for each in ways}
            for _ in range(options.rounds):
                for each, work in ways.items():
                    times[each].append(timed(work))
        parts = json.loads(
            subprocess.run(
                [sys.executable, Path(__file__).with_name("one_model_parts.py"), ours, model[-1], "--json"],
                env=environment(ours), check=True, capture_output=True, text=True,
            ).stdout.splitlines()[-1]
        )  # fmt: skip
    medians = {each: statistics.median(values) for each, values in times.items()}
    versions = {
        p: importlib.metadata.version(p) for p in ("dbt-relay", "dbt-core", "dbt-duckdb", "duckdb", "celery")
    }
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    print(f"{'way':16}{'median':>9}{'min':>9}{'max':>9}   times relay")
    for each, values in times.items():
        print(
            f"{each:16}{medians[each]:8.3f}s{min(values):8.3f}s{max(values):8.3f}s"
            f"   {medians[each] / medians['relay']:6.1f}"
        )
    print(f"\nthe engine's part of relay, {options.models or 'the demonstration'} models")
    print(table(parts))
    if options.json:
        options.json.write_text(
            json.dumps({"versions": versions, "seconds": times, "medians": medians, "parts": parts}, indent=1)
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
