"""Records outcomes as JSON lines, from which an interrupted run continues, and prints their table."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest

_ITEM = re.compile(r"on_(?P<adapter>\w+)\.py::Test_(?P<side>plain|relay)_(?P<name>\w+)::(?P<test>.+)$")
OUTCOMES = ("passed", "failed", "skipped", "error")


class Outcome(TypedDict):
    """One test on one side."""

    adapter: str
    side: str
    name: str
    test: str
    outcome: str
    seconds: float
    reason: str


class Recorder:
    """A pytest plugin that appends each outcome to a file and deselects tests that are recorded there.

    Args:
        path: the file.
        side: the side to run.
        worker: whether this is an xdist worker, which does not write.
    """

    def __init__(self, path: Path, side: str, *, worker: bool) -> None:
        self._path, self._side, self._worker = path, side, worker
        self._worst: dict[str, Outcome] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Select the tests of the side that are not recorded; for dbt-relay, only those that plain dbt passes.

        Tests that failed through dbt-relay are run again.
        """
        known = {
            (each["adapter"], each["side"], each["name"], each["test"]): each
            for each in read(self._path)
            if each["side"] == "plain" or each["outcome"] == "passed"
        }
        kept: list[pytest.Item] = []
        left_out: list[pytest.Item] = []
        for item in items:
            found = _ITEM.search(item.nodeid)
            wanted = found is not None and found["side"] == self._side
            if found is not None and wanted:
                adapter, name, test = found["adapter"], found["name"], found["test"]
                wanted = (adapter, self._side, name, test) not in known
                if wanted and self._side == "relay":
                    plain = known.get((adapter, "plain", name, test))
                    wanted = plain is not None and plain["outcome"] == "passed"
            (kept if wanted else left_out).append(item)
        items[:] = kept
        config.hook.pytest_deselected(items=left_out)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a test when it has ended, with the worst outcome of its phases."""
        found = _ITEM.search(report.nodeid)
        if self._worker or found is None:
            return
        outcome = "error" if report.failed and report.when != "call" else report.outcome
        entry = self._worst.get(report.nodeid)
        if entry is None or OUTCOMES.index(outcome) > OUTCOMES.index(entry["outcome"]):
            entry = Outcome(
                adapter=found["adapter"], side=found["side"], name=found["name"], test=found["test"],
                outcome=outcome, seconds=0.0 if entry is None else entry["seconds"],
                reason="" if outcome == "passed" else _reason(report),
            )  # fmt: skip
            self._worst[report.nodeid] = entry
        entry["seconds"] = round(entry["seconds"] + report.duration, 2)
        if report.when == "teardown":
            with self._path.open("a") as file:
                file.write(json.dumps(entry) + "\n")


def _reason(report: pytest.TestReport) -> str:
    crash: Any = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return " ".join(text.split())[:400]


def read(path: Path) -> list[Outcome]:
    """Read the outcomes of a file; the last one of each test counts."""
    if not path.exists():
        return []
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return list({(e["adapter"], e["side"], e["name"], e["test"]): e for e in entries}.values())


def table(outcomes: list[Outcome], exceptions: dict[str, str]) -> Iterator[str]:
    """Format the figures of both sides, and each test that plain dbt passes and dbt-relay does not.

    Args:
        exceptions: reasons, by ``name::test`` or by ``name`` for a whole class.
    """
    yield "| adapter | side | classes | passed | failed | errors | skipped |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for adapter in sorted({each["adapter"] for each in outcomes}):
        for side in ("plain", "relay"):
            mine = [each for each in outcomes if (each["adapter"], each["side"]) == (adapter, side)]
            count = Counter(each["outcome"] for each in mine)
            classes = len({each["name"] for each in mine})
            yield (
                f"| {adapter} | {side} | {classes} | {count['passed']} | {count['failed']} | {count['error']} "
                f"| {count['skipped']} |"
            )
    plain = [each for each in outcomes if each["side"] == "plain" and each["outcome"] in {"failed", "error"}]
    yield from _listed("What plain dbt does not pass (not run through dbt-relay)", plain, {})
    yield from _listed("What plain dbt passes and dbt-relay does not", different(outcomes), exceptions)


def _listed(title: str, outcomes: list[Outcome], exceptions: dict[str, str]) -> Iterator[str]:
    yield f"\n{title}: {len(outcomes) or 'nothing'}\n"
    for each in outcomes:
        why = reason_for(each, exceptions) or each["reason"]
        yield f"- {each['adapter']} {each['name'].replace('__', '.')}::{each['test']}: {why}"


def different(outcomes: list[Outcome]) -> list[Outcome]:
    """Outcomes of dbt-relay other than passed. Plain dbt passed all of them."""
    return [each for each in outcomes if each["side"] == "relay" and each["outcome"] != "passed"]


def reason_for(outcome: Outcome, exceptions: dict[str, str]) -> str | None:
    """The reason of a known exception, or None."""
    name = outcome["name"]
    return exceptions.get(f"{name}::{outcome['test']}") or exceptions.get(name)
