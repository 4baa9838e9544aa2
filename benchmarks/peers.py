"""Comparison with an alternative: Prefect with prefect-dbt, one task a node (``ExecutionMode.PER_NODE``).

Optional: it needs its own virtual environment, which ``python -m benchmarks.peers`` creates from PyPI in
``build/peers``; without it nothing is measured. Prefect's temporary server keeps running, and the first build, which
parses the project, does not count. Prefect has two processes on Postgres, as ours, and one on a DuckDB file, which only
one process can open.
"""

from __future__ import annotations

import importlib.metadata
import statistics
import subprocess
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.measure import ROOT, Cell, Options, Outcome, Table, interleaved
from benchmarks.projects import environment, layered, nothing, write
from benchmarks.stacks import stack
from benchmarks.warehouses import DuckDB, warehouses

HOME = ROOT / "build" / "peers"
PREFECT = ("prefect==3.8.8", "prefect-dbt==0.7.25", "fastapi==0.139.*")
"""Prefect 3.8.8 allows FastAPI 0.165 but does not start with it."""
SAME = ("dbt-core", "dbt-adapters", "dbt-duckdb", "dbt-postgres", "duckdb", "psycopg2-binary")
PROCESSES = 2
BUILD = """
import sys, time
from pathlib import Path
from prefect import flow
from prefect_dbt.core import _orchestrator as dbt
from prefect_dbt.core.settings import PrefectDbtSettings

project, processes = Path(sys.argv[1]), int(sys.argv[2])

@flow
def build():
    settings = PrefectDbtSettings(project_dir=project, profiles_dir=project)
    orchestrator = dbt.PrefectDbtOrchestrator(
        settings=settings, execution_mode=dbt.ExecutionMode.PER_NODE, concurrency=processes, disable_assets=True,
        create_summary_artifact=False,
    )
    return orchestrator.run_build()

@flow
def serve():
    for line in sys.stdin:
        print("built", len(build()), flush=True)

if __name__ == "__main__":
    serve()
"""


def install() -> None:
    """Create the virtual environment."""
    venv.create(HOME / "venv", with_pip=True, clear=True)
    same = [f"{name}=={importlib.metadata.version(name)}" for name in SAME]
    pip = [_python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PREFECT, *same], check=True)
    (HOME / "build.py").write_text(BUILD)


def _python() -> Path:
    return HOME / "venv" / "bin" / "python"


@contextmanager
def prefect(project: Path, processes: int, models: int) -> Iterator[Callable[[], None]]:
    """A process with Prefect's server; each call builds the project."""
    environ = {
        **environment(), "PREFECT_HOME": str(HOME / "home"), "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "PREFECT_API_REQUEST_TIMEOUT": "300",
    }  # fmt: skip
    process = subprocess.Popen(
        [_python(), HOME / "build.py", project, str(processes)], env=environ, cwd=project, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def build() -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        print("build", file=process.stdin, flush=True)
        for line in process.stdout:  # there are also lines of dbt and Prefect
            if line.startswith("built "):
                if int(line.split()[1]) != models:
                    raise RuntimeError(f"Prefect {line.strip()} of {models} models")
                return
        raise RuntimeError("Prefect's process ended")

    try:
        yield build
    finally:
        process.communicate()


def bench(options: Options) -> Outcome:
    """Measure seconds of a whole build."""
    outcome = Outcome("Beside Prefect, a task a node")
    if not (HOME / "build.py").exists():
        outcome.notes.append(
            "Not measured: `python -m benchmarks.peers` installs Prefect in an environment of its own."
        )
        return outcome
    rows: list[list[Cell]] = []
    with ExitStack() as opened:
        workers = opened.enter_context(stack(PROCESSES))
        for place in opened.enter_context(warehouses(options.folder / "warehouses", outcome.notes)):
            processes = 1 if isinstance(place, DuckDB) else PROCESSES
            for models in options.pick((8,), (50, 200)):
                copies = {
                    side: write(options.folder / f"{place.name}{models}{side}", layered(models), place, f"peer{models}{side}", nothing)
                    for side in ("prefect", "relay")
                }  # fmt: skip
                with prefect(copies["prefect"].folder, processes, models) as build:
                    ways: dict[str, Callable[[], object]] = {
                        "prefect": build, "relay": lambda copy=copies["relay"]: workers.run(copy, "build"),  # type: ignore[misc]
                    }  # fmt: skip
                    times = interleaved(ways, options.pick(1, 1, 3), warm=1)
                took = {side: statistics.median(each) for side, each in times.items()}
                rows.append(
                    [
                        place.name,
                        models,
                        processes,
                        took["prefect"],
                        took["relay"],
                        took["prefect"] / took["relay"],
                    ]
                )
                outcome.data[f"{place.name}, {models}"] = times
    outcome.tables.append(
        Table("`build` of small models, seconds", ["warehouse", "models", "Prefect's processes", "Prefect", "dbt-relay", "times dbt-relay"], rows)
    )  # fmt: skip
    outcome.notes.append(
        f"{', '.join(PREFECT[:2])}, its server and its manifest warm; dbt-relay with {PROCESSES} worker processes."
    )
    return outcome


if __name__ == "__main__":
    install()
    print("Installed; now: python -m benchmarks peers")
