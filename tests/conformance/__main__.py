"""`make conformance`: runs dbt's adapter tests with plain dbt, then through dbt-relay, and prints a table.

Outcomes are recorded as JSON lines. A run that was interrupted or found differences continues from them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tests.conformance.classes import SIDES
from tests.conformance.exceptions import EXCEPTIONS
from tests.conformance.record import different, read, reason_for, table

ROOT = Path(__file__).parents[2]
MODULES = ("tests/conformance/on_duckdb.py", "tests/conformance/on_postgres.py")
PACKAGES = ("dbt-core", "dbt-duckdb", "dbt-postgres", "duckdb", "dbt-tests-adapter")


def main() -> int:
    """Run what is missing and print the table.

    Returns:
        0: every test that plain dbt passes also passes through dbt-relay, or is a known exception.
        1: a test does not; or a pass ended early.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--record", type=Path, default=ROOT / "build" / "conformance.jsonl")
    parser.add_argument("--processes", default="2", help="pytest processes; each has its own servers")
    parser.add_argument("--only", default="", help="pytest's -k")
    parser.add_argument("--table", action="store_true", help="only print the table of recorded outcomes")
    options = parser.parse_args()
    options.record.parent.mkdir(parents=True, exist_ok=True)
    complete = options.table or all(_run(side, options) for side in SIDES)
    outcomes = read(options.record)
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES), end="\n\n")
    print("\n".join(table(outcomes, EXCEPTIONS)))
    unexplained = [each for each in different(outcomes) if reason_for(each, EXCEPTIONS) is None]
    good = complete and not unexplained
    if not good:
        print(f"\nrun it again to continue from {options.record}", file=sys.stderr)
    elif not options.table and not options.only:
        options.record.replace(options.record.with_suffix(".last.jsonl"))
    return int(not good)


def _run(side: str, options: argparse.Namespace) -> bool:
    """Run one pass. Returns whether it was completed."""
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", *MODULES, "-q", "--tb=no", "-r", "N", "--disable-warnings",
            "-p", "no:cacheprovider", "-k", options.only, "--numprocesses", options.processes,
            "--dist", "loadscope", "--conformance-record", options.record, "--conformance-side", side,
        ],
        cwd=ROOT, check=False,
    )  # fmt: skip
    return done.returncode in {0, 1, 5}  # 1: tests failed; 5: nothing was left to run


if __name__ == "__main__":
    sys.exit(main())
