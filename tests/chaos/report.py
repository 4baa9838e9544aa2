"""Formats the verdicts of trials."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median, quantiles

from tests.chaos.verdict import Verdict

_KINDS = {
    "the run did not end": "did not end",
    "executed twice": "executions twice at once",
    "written by a fenced worker": "relations written by a fenced worker",
    "the producer gave up": "producers that gave up",
}
"""Start of a difference → its name in the summary."""


def format_verdict(verdict: Verdict) -> str:
    """Format one trial in a few lines."""
    good = "FAILED" if verdict.differences else "ok"
    lines = [
        f"seed {verdict.seed} {verdict.scenario} {good}: {verdict.seconds:.1f} s, {verdict.steps} steps, "
        f"{verdict.executions} executions"
        + (f", {verdict.producers} producers" if verdict.producers > 1 else "")
        + (f", ran again after their commit: {', '.join(verdict.repeated)}" if verdict.repeated else "")
    ]
    lines += [f"    {each}" for each in verdict.faults]
    lines += [f"    ({each}: the run had ended)" for each in verdict.missed]
    lines += [f"    back after {each.seconds:.1f} s ({each.fault})" for each in verdict.recoveries]
    lines += [f"    line lost: {each}" for each in verdict.lines_lost]
    lines += [f"  ! {each}" for each in verdict.differences[:20]]
    return "\n".join(lines)


def summary(verdicts: Sequence[Verdict]) -> list[str]:
    """Summarize trials: how many failed, and how long each kind of fault delayed a run."""
    failed = [each for each in verdicts if each.differences]
    faults, steps = sum(len(each.faults) for each in verdicts), sum(each.steps for each in verdicts)
    executions = sum(each.executions for each in verdicts)
    lines = [
        f"{len(verdicts)} trials, {faults} faults, {executions} executions of {steps} steps",
        f"{len(failed)} trials with differences; "
        + ", ".join(f"{_count(failed, start)} {what}" for start, what in _KINDS.items()),
    ]
    by_scenario = defaultdict(list)
    for each in verdicts:
        by_scenario[each.scenario].append(each)
    lines += [
        f"  {name}: {len(mine)} trials, {sum(bool(each.differences) for each in mine)} with differences, "
        f"{median(each.seconds for each in mine):.1f} s in the median"
        for name, mine in sorted(by_scenario.items())
    ]
    if failed:
        lines.append(
            "  replay with the same options and --only: "
            + ", ".join(f"{each.seed} ({each.scenario})" for each in failed)
        )
    times = defaultdict(list)
    struck: dict[str, int] = defaultdict(int)
    for each in verdicts:
        for fault in each.faults:
            struck[fault.partition(" at ")[0]] += 1
        for recovery in each.recoveries:
            times[recovery.fault].append(recovery.seconds)
    lines += [
        "",
        "| fault | struck | held up | median s | p95 s | worst s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in sorted(struck):
        lines.append(f"| {name} | {struck[name]} | {_distribution(times[name])} |")
    every = [seconds for each in times.values() for seconds in each]
    lines.append(f"| all | {faults} | {_distribution(every)} |")
    return lines


def _count(verdicts: Sequence[Verdict], start: str) -> int:
    return sum(each.startswith(start) for verdict in verdicts for each in verdict.differences)


def _distribution(times: Sequence[float]) -> str:
    if not times:
        return "0 | | |"
    high = quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
    return f"{len(times)} | {median(times):.1f} | {min(high, max(times)):.1f} | {max(times):.1f}"
