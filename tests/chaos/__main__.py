"""`make chaos`: runs a series of trials and prints a summary."""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.faults import FAULTS
from tests.chaos.report import format_verdict, summary
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.series import Series
from tests.chaos.verdict import append_line, read_lines
from tests.support.postgres_server import PostgresServer

ROOT = Path(__file__).parents[2]
DEFAULT = "demo-duckdb,features-duckdb,demo-postgres,features-postgres"


def main() -> int:
    """Run the trials that are not recorded yet and print a summary.

    Returns:
        0: every run ended like an undisturbed run. 1: one did not.
    """
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stops what was started
    names = options.on.split(",")
    among = [name for name in FAULTS if name in options.faults.split(",")]
    first = options.seed
    if first is None:
        first = random.SystemRandom().randrange(10**6)
    seeds = [options.only] if options.only is not None else list(range(first, first + options.trials))
    known = {(each.seed, each.scenario, each.lease) for each in read_lines(options.record)}
    wanted = [(seed, names[seed % len(names)]) for seed in seeds]
    missing = [each for each in wanted if options.only is not None or (*each, options.lease) not in known]
    if missing and not options.report:
        print(f"{len(missing)} trials from seed {missing[0][0]} on; --only SEED replays one", flush=True)
        with (
            _folder(options.keep) as folder,
            _postgres() as postgres,
            Series(
                folder,
                postgres,
                lease=options.lease,
                reap=options.reap,
                longest=options.longest,
                patience=options.patience,
                among=among,
            ) as series,
        ):
            for seed, name in missing:
                verdict = series.run_trial(seed, name)
                print(format_verdict(verdict), flush=True)
                if options.only is None:
                    append_line(options.record, verdict)
                elif verdict.differences:
                    return 1
    if options.only is not None:
        return 0
    verdicts = [
        each for each in read_lines(options.record)
        if options.report or ((each.seed, each.scenario) in wanted and each.lease == options.lease)
    ]  # fmt: skip
    print("\n".join(summary(verdicts)))
    return int(any(each.differences for each in verdicts))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument(
        "--seed", type=int, default=None, help="seed of the first trial; the others follow it"
    )
    parser.add_argument("--only", type=int, default=None, metavar="SEED", help="replay one trial")
    parser.add_argument("--on", default=DEFAULT, help=f"scenarios, in turn: {', '.join(SCENARIOS)}")
    parser.add_argument("--faults", default="", help=f"draw only these faults: {', '.join(FAULTS)}")
    parser.add_argument("--lease", type=float, default=10.0, help="DBT_RELAY_LEASE_SECONDS of the workers")
    parser.add_argument("--reap", type=float, default=2.0, help="DBT_RELAY_REAP_SECONDS of the workers")
    parser.add_argument("--longest", type=float, default=15.0, help="maximum seconds of an outage of Redis")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds in which a run must end")
    parser.add_argument("--record", type=Path, default=ROOT / "build" / "chaos.jsonl")
    parser.add_argument(
        "--keep", type=Path, help="a new folder for projects, logs and journals, which is kept"
    )
    parser.add_argument("--report", action="store_true", help="only print the summary of recorded trials")
    return parser


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="relay-chaos-") as folder:
        yield Path(folder).resolve()


@contextlib.contextmanager
def _postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.start()
    try:
        yield server
    finally:
        server.close()


if __name__ == "__main__":
    sys.exit(main())
