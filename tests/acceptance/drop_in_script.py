"""A script as somebody wrote it for the dbt executable; only the executable's name is a variable.

usage: drop_in_script.py EXECUTABLE PROJECT CALLS
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import duckdb

EXECUTABLE, PROJECT, CALLS = sys.argv[1], sys.argv[2], int(sys.argv[3])
ENV = {
    **os.environ,
    "DATABASE_PATH": "warehouse/simulation.duckdb",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
}


def dbt(*args: str) -> tuple[float, list[str]]:
    """Run a command in the project; seconds it took and its lines."""
    began = time.perf_counter()
    done = subprocess.run(
        [EXECUTABLE, *args], cwd=PROJECT, env=ENV, capture_output=True, text=True, check=False,
    )  # fmt: skip
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{args} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return took, done.stdout.splitlines()


def headcount() -> int:
    """Looked up in the file itself, which dbt must have let go of."""
    with duckdb.connect(os.path.join(PROJECT, "warehouse/simulation.duckdb")) as connection:
        connection.execute("create table if not exists calls (called_at timestamp)")
        connection.execute("insert into calls values (now()::timestamp)")
        row = connection.execute("select count(*) from seed_census").fetchone()
    return int(row[0]) if row else 0


def statuses() -> dict[str, str]:
    """What dbt left in run_results.json."""
    with open(os.path.join(PROJECT, "target", "run_results.json"), encoding="utf-8") as file:
        return {entry["unique_id"]: entry["status"] for entry in json.load(file)["results"]}


os.makedirs(os.path.join(PROJECT, "warehouse"), exist_ok=True)
variables = json.dumps({"simulation_year": 2025})
report = []
for call in range(CALLS):
    args = ["seed"] if call == 0 else ["run", "--select", "stg_census"]
    seconds, lines = dbt(*args, "--vars", variables)
    report.append(
        {
            "args": args, "seconds": round(seconds, 3), "rows": headcount(), "statuses": statuses(),
            "started": sum(" START " in line for line in lines),
            "done": next((line for line in lines if "Done. " in line), "").partition("Done. ")[2],
        }
    )  # fmt: skip
print(json.dumps(report))
