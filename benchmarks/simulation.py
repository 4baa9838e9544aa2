"""Five simulated years, as in a user's script: dozens of dbt commands with a changing ``simulation_year``.

On the demo project, each year has a command for each group of models, and snapshots and tests. The commands run as
``dbt`` processes, with ``dbtRunner`` in one process, and with dbt-relay on a warm stack of two worker processes. The
three take turns at each command. Afterwards their tables must be equal.
"""

from __future__ import annotations

import json
import statistics

from benchmarks.measure import Options, Outcome, Plot, Table, at_least, interleaved
from benchmarks.sides import COMMAND, INSIDE, RELAY, database, demonstration, differences, sides
from benchmarks.stacks import stack

FIRST_YEAR = 2025
YEAR = {
    "staging": ("run", "--select", "path:models/staging"),
    "who is there": (
        "run", "--select", "int_simulation_period", "int_baseline_workforce", "int_starting_workforce",
        "int_workforce_bands",
    ),
    "hazards": ("run", "--select", "int_termination_hazards", "int_promotion_hazards", "int_performance_ratings"),
    "who leaves, who is promoted": ("run", "--select", "int_terminations", "int_promotions"),
    "raises": ("run", "--select", "int_cost_of_living_raises", "int_merit_raises", "int_promotion_raises"),
    "who is hired": ("run", "--select", "int_hiring_demand", "int_hires", "int_new_hire_terminations"),
    "the year": ("run", "--select", "int_yearly_events", "int_ending_workforce", "int_compensation_paid"),
    "facts": ("run", "--select", "path:models/marts/core"),
    "history": ("snapshot",),
    "reports": ("run", "--select", "path:models/marts/reporting", "path:models/marts/python"),
    "checks": ("test", "--select", "path:models/marts"),
}  # fmt: skip
"""Commands of a year, in order."""


def bench(options: Options) -> Outcome:
    """Measure seconds in total and of each command."""
    years = options.pick(1, 5)
    steps = options.pick(list(YEAR)[:5], list(YEAR))
    outcome = Outcome(f"The simulation: {years} years")
    totals: dict[str, list[float]] = {}
    by_step: dict[str, dict[str, list[float]]] = {}
    with stack(2) as workers:
        for number in range(options.pick(1, 1, 3)):
            folder = options.folder / str(number)
            with sides(demonstration(folder / "project"), folder, workers) as ways:
                spent = dict.fromkeys(ways, 0.0)
                for year in range(FIRST_YEAR, FIRST_YEAR + years):
                    commands = {"seed": ("seed",)} if year == FIRST_YEAR else {}
                    for step, command in (commands | {each: YEAR[each] for each in steps}).items():
                        args = [*command, "--vars", json.dumps({"simulation_year": year})]
                        turn = {name: lambda do=do, args=args: do(args) for name, do in ways.items()}  # type: ignore[misc]
                        times = interleaved(turn, rounds=1, warm=0)
                        for name, (took,) in times.items():
                            spent[name] += took
                            by_step.setdefault(step, {}).setdefault(name, []).append(took)
            for name, took in spent.items():
                totals.setdefault(name, []).append(took)
            for other in (COMMAND, INSIDE):
                if found := differences(database(folder, other), database(folder, RELAY)):
                    raise RuntimeError(f"{other} and {RELAY} left other tables: {'; '.join(found)}")
    median = {name: statistics.median(each) for name, each in totals.items()}
    commands_in_all = 1 + years * len(steps)
    outcome.tables = [
        Table(
            f"{years} years, {commands_in_all} dbt commands", ["way", "seconds", "times dbt-relay"],
            [[name, took, took / median[RELAY]] for name, took in median.items()],
        ),
        Table(
            "By command: median seconds", ["command", COMMAND, INSIDE, RELAY],
            [[step, *(statistics.median(each[name]) for name in (COMMAND, INSIDE, RELAY))] for step, each in by_step.items()],
        ),
    ]  # fmt: skip
    outcome.plots = [
        Plot("simulation", f"{years} years of the simulation", "", "seconds", [f"{commands_in_all} commands"],
             {name: [took] for name, took in median.items()}, "bars")
    ]  # fmt: skip
    outcome.targets = [
        at_least("simulation-command", f"simulation, {years} years: times faster than processes `dbt`", 3, median[COMMAND] / median[RELAY]),
        at_least("simulation-inside", f"simulation, {years} years: times faster than `dbtRunner`", 1.5, median[INSIDE] / median[RELAY]),
    ]  # fmt: skip
    outcome.notes = [
        ("All three left the same tables, row by row (but for the invocation ids and times that the project logs). Plain dbt "
        "and dbt-relay begin with nothing parsed; the worker processes are up.")
    ]  # fmt: skip
    outcome.data = {"seconds": totals, "by command": by_step}
    return outcome
