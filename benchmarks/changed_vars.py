"""CPU seconds until a run with other vars is planned on a warm worker, beside a full parse.

    python -m benchmarks.changed_vars [--models 120] [--tests 870] [--rounds 3]

No Redis and no warehouse: the engine alone, with what processes share in memory, on `simulated_project`. Planning
takes in the arguments, project and profile, the parse, dbt's graph and selection; what follows is the first node.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.simulated_project import write_project
from tests.support.engine import Shared, spec_for
from workers.engine.engine import Engine


def planned(engine: Engine, project: Path, values: Mapping[str, Any], *more: str) -> float:
    """CPU seconds of this process to plan the run of a model."""
    spec = spec_for(project, "run", "--select", "m001", "--vars", json.dumps(values), *more)
    began = time.process_time()
    engine.plan(spec, lambda _: None)
    took = time.process_time() - began
    engine.forget(spec.run_id)
    return took


def main() -> int:
    """Print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=int, default=120)
    parser.add_argument("--tests", type=int, default=870)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        project = Path(name) / "project"
        values = write_project(project, options.models, options.tests)
        engine = Engine(Shared())
        times: dict[str, list[float]] = {"a full parse": [planned(engine, project, values)]}
        for number in range(options.rounds):
            changes = {
                "the same vars": {},
                "a var that two or three models write into their SQL": {"assumption_003": number + 0.5},
                "a var that 3/4 of the models write into their SQL": {"simulation_year": 2026 + number},
                "a var in the config() of three models": {"alias_suffix": f"b{number}"},
            }
            for what, change in changes.items():
                values = values | change
                times.setdefault(what, []).append(planned(engine, project, values))
        times["a full parse"].append(planned(Engine(Shared()), project, values, "--no-partial-parse"))
    for what, each in times.items():
        print(f"{what:54}{statistics.median(each):8.2f} s CPU   ({min(each):.2f} to {max(each):.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
