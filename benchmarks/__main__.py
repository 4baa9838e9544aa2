"""Measure dbt-relay and plain dbt.

    python -m benchmarks [NAME …] [--quick | --full] [--out FOLDER]

Without names, all benchmarks run: about an hour on two cores; ten minutes with ``--quick``, which only checks that
they work (its figures mean nothing); much longer with ``--full``. Each runs in its own process, one after the other.
A failure is recorded, the other benchmarks go on, and the exit code is 1.

Output: results.json and RESULTS.md in ``benchmarks/``, plots in ``docs/benchmarks/``, and the figures in the README.
With ``--out``, or with ``--quick`` (``build/benchmarks``), all but the README's figures go to one folder. Benchmarks
that are not named keep their earlier results.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import report
from benchmarks.measure import ROOT, Options, Outcome, Size, failure, machine
from benchmarks.plots import draw

BENCHMARKS = {
    "one-model": "benchmarks.one_model",
    "whole-project": "benchmarks.whole_project",
    "growth": "benchmarks.growth",
    "simulation": "benchmarks.simulation",
    "sweep": "benchmarks.sweep",
    "changed-vars": "benchmarks.changed_vars",
    "big-project": "benchmarks.big_project",
    "many-var-sets": "benchmarks.many_var_sets",
    "drop-in": "benchmarks.drop_in",
    "carrier": "benchmarks.carrier",
    "streaming": "benchmarks.streaming",
    "scale": "benchmarks.calibration",
    "peers": "benchmarks.peers",
}
"""Name → module, in the order of RESULTS.md."""


README = ROOT / "README.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", default="normal")
    size.add_argument("--full", dest="size", action="store_const", const="full")
    parser.add_argument("--out", type=Path, help="folder for all output")
    parser.add_argument(
        "--render", action="store_true", help="measure nothing: write page and plots from results.json"
    )
    parser.add_argument(
        "--outcome", type=Path, help=argparse.SUPPRESS
    )  # internal: run one benchmark in this process
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no such benchmark: {', '.join(unknown)}. There are {', '.join(BENCHMARKS)}.")
    if options.outcome:
        options.outcome.write_bytes(msgspec.json.encode(measure(options.names[0], options.size)))
        return 0
    out = options.out or (ROOT / "build" / "benchmarks" if options.size == "quick" else None)
    names = [] if options.render else [name for name in BENCHMARKS if name in (options.names or BENCHMARKS)]
    outcomes: list[Outcome] = []
    write([], out)
    for name in names:
        print(f"=== {name}", flush=True)
        outcomes.append(in_own_process(name, options.size))
        write(outcomes, out)  # after each benchmark, so that a later failure loses no results
        shown = report.Results(command="", outcomes=outcomes[-1:])
        print(report.page(shown, report.limits(), "").partition("## Targets\n\n")[2], flush=True)
    failed = [each.name for each in outcomes if each.error]
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


def measure(name: str, size: Size) -> Outcome:
    """Run a benchmark in this process."""
    began, at, found_on = time.perf_counter(), dt.datetime.now(dt.timezone.utc), machine()
    try:
        module = importlib.import_module(BENCHMARKS[name])
        with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
            outcome: Outcome = module.bench(Options(size=size, folder=Path(folder)))
    except Exception as error:  # noqa: BLE001 - recorded, and the other benchmarks go on
        outcome = Outcome(title=name, error=failure(error))
    outcome.name, outcome.size, outcome.machine = name, size, found_on
    outcome.command = f"python -m benchmarks {name}" + ("" if size == "normal" else f" --{size}")
    outcome.seconds, outcome.at = time.perf_counter() - began, at.strftime("%Y-%m-%d %H:%M UTC")
    return outcome


def in_own_process(name: str, size: Size) -> Outcome:
    """Run a benchmark in its own process, without the heap and the imports of earlier benchmarks."""
    command = [sys.executable, "-m", "benchmarks", name, *(() if size == "normal" else (f"--{size}",))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outcome.json"
        process = subprocess.Popen([*command, "--outcome", path], cwd=ROOT)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # it stops its servers and workers
            process.wait(120)
            raise
        if path.exists():
            return msgspec.json.decode(path.read_bytes(), type=Outcome)
    return Outcome(title=name, name=name, size=size, machine=machine(), error=f"ended with {code}")


def write(outcomes: Sequence[Outcome], out: Path | None) -> None:
    """Write results.json, RESULTS.md, plots, and the README's figures. Without `outcomes`, from earlier results."""
    folder, plots, link = (
        (out, out, ".") if out else (ROOT / "benchmarks", ROOT / "docs" / "benchmarks", "../docs/benchmarks")
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    before = msgspec.json.decode(path.read_bytes(), type=report.Results) if path.exists() else None
    results = report.merged(before, outcomes, list(BENCHMARKS))
    if not results.outcomes:
        return
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    (folder / "RESULTS.md").write_text(report.page(results, report.limits(), link, report.gains()))
    if out is None:
        README.write_text(report.with_headlines(README.read_text(), results))
    try:
        for plot in (each for outcome in results.outcomes for each in outcome.plots):
            draw(plot, plots)
    except ImportError as error:
        print(f"no plots are drawn: {error} (`make bench` installs what they need)", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops what was started
    sys.exit(main())
