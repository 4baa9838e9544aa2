"""Shared code of the benchmarks: measuring in turn, verdicts, and the rendered page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.measure import Options, Outcome, Plot, Table, at_least, at_most, interleaved, same_machine
from benchmarks.projects import SHAPES

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results.json"
MACHINE = {"cpu": "one", "cores": 2, "dbt-core": "1.11", "commit": "aaa", "load": 0.1}


def outcome(name: str, **more: object) -> Outcome:
    return msgspec.structs.replace(
        Outcome(title=f"About {name}", name=name, size="normal", command=f"bench {name}", machine=MACHINE),
        **more,
    )


def test_every_round_starts_with_another_way() -> None:
    done: list[str] = []

    def way(name: str) -> Callable[[], None]:
        return lambda: done.append(name)

    times = interleaved({name: way(name) for name in "abc"}, rounds=3, warm=1)
    assert {name: len(took) for name, took in times.items()} == {"a": 3, "b": 3, "c": 3}
    assert "".join(done[3:]) == "abc" + "bca" + "cab"
    assert sorted(done[:3]) == ["a", "b", "c"]


def test_failed_way_is_skipped_and_recorded() -> None:
    calls: list[int] = []

    def fails() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("no more")

    failed: dict[str, str] = {}
    times = interleaved({"good": lambda: None, "bad": fails}, rounds=3, warm=1, failed=failed)
    assert failed == {"bad": "ValueError: no more"}
    assert (len(times["good"]), len(times["bad"]), len(calls)) == (3, 0, 2)
    with pytest.raises(ZeroDivisionError):
        interleaved({"bad": lambda: 1 / 0}, rounds=1)


@pytest.mark.parametrize(
    ("target", "met", "text"),
    [
        (at_most("k", "w", 60, 45.0, "ms"), True, "met, with 25 % to spare"),
        (at_most("k", "w", 60, 90.0, "ms"), False, "**missed**: 1.50 times too much"),
        (at_least("k", "w", 40, 50.0), True, "met, with 20 % to spare"),
        (at_least("k", "w", 40, 20.0), False, "**missed**: 2.00 times too little"),
        (at_most("k", "w", 60, 60.0), True, "met, with 0 % to spare"),
        (at_most("k", "w", 60, None), None, "not measured"),
    ],
)
def test_verdict_says_by_how_much(target: object, met: bool | None, text: str) -> None:
    assert (target.met, report.verdict(target)) == (met, text)


def test_page_has_every_figure_and_its_limit() -> None:
    found = outcome(
        "one",
        tables=[Table("Times", ["a|b", "c"], [["x|y", 0.01234], [1000, None]])],
        plots=[Plot("curve", "A curve", "x", "y", [1, 2], {"ours": [1.0, 2.0]})],
        targets=[at_most("slow", "a thing", 1.0, 2.0, "s"), at_most("other", "else", 1.0, None)],
        notes=["**dbt failed** there"],
    )
    results = msgspec.json.decode(
        msgspec.json.encode(report.Results("make bench", [found, outcome("two", error="it broke")])),
        type=report.Results,
    )
    gained = Table("", ["what", "before", "after", "by"], [["a node", "2 ms", "1 ms", "less"]])
    page = report.page(results, {"slow": "the GIL"}, "plots", gained)
    assert (
        "compare, those of two lines do not.\n\n| what | before | after | by |\n| --- | --- | --- | --- |\n| a node | 2 ms | 1 ms | less |"
        in page
    )
    assert "| a thing | ≤ 1.00 s | 2.00 s | **missed**: 2.00 times too much | the GIL |" in page
    assert "| else | ≤ 1.00 | - | not measured |  |" in page
    assert "| x\\|y | 0.012 |\n| 1,000 | - |" in page
    assert "![A curve](plots/curve.svg)" in page
    assert "**dbt failed** there" in page
    assert "**It failed**: it broke" in page
    assert "| dbt-core | 1.11 |" in page
    assert "commit aaa" in page


def test_earlier_results_are_kept_if_the_machine_is_the_same() -> None:
    before = report.Results("make bench", [outcome("one"), outcome("two")])
    names = ["one", "two", "three"]
    again = outcome("two", title="new", machine={**MACHINE, "load": 9.0, "commit": "bbb"})
    kept = report.merged(before, [again, outcome("three")], names)
    assert [each.title for each in kept.outcomes] == ["About one", "new", "About three"]
    elsewhere = outcome("two", machine={**MACHINE, "cores": 8})
    assert not same_machine(elsewhere.machine, MACHINE)
    assert report.merged(before, [elsewhere], names).outcomes == [elsewhere]
    missing = [name for name in names if name != elsewhere.name]
    assert f"yet**: {', '.join(missing)}, and" in report.page(
        report.merged(before, [elsewhere], names), {}, "."
    )
    assert report.merged(before, [], names).outcomes == before.outcomes


def test_failed_benchmark_is_recorded_and_the_exit_code_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Options) -> Outcome:
        raise RuntimeError("no such thing")

    modules = {"one": broken, "two": lambda options: outcome("two", notes=[options.size])}
    monkeypatch.setattr(command, "BENCHMARKS", {name: name for name in modules})
    monkeypatch.setattr(
        command.importlib, "import_module", lambda name: type("M", (), {"bench": staticmethod(modules[name])})
    )
    monkeypatch.setattr(command, "in_own_process", command.measure)
    assert command.main(["--quick", "--out", str(tmp_path)]) == 1
    assert "failed: one" in capsys.readouterr().out
    page = (tmp_path / "RESULTS.md").read_text()
    assert "**It failed**: RuntimeError: no such thing" in page
    assert "python -m benchmarks two --quick" in page
    with pytest.raises(SystemExit, match="2"):
        command.main(["three"])
    assert "There are one, two" in capsys.readouterr().err


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("models", [1, 7, 50, 203])
def test_models_of_a_graph_follow_their_parents(shape: str, models: int) -> None:
    graph = SHAPES[shape](models)
    assert len(graph) == models
    assert all(parent < number for number, parents in enumerate(graph) for parent in parents)
    assert all(len(set(parents)) == len(parents) for parents in graph)
    assert graph == SHAPES[shape](models)


def test_committed_results_are_rendered_and_every_missed_target_has_a_limit() -> None:
    results = msgspec.json.decode(RESULTS.read_bytes(), type=report.Results)
    missed = {target.key for each in results.outcomes for target in each.targets if target.met is False}
    assert missed <= set(report.limits())
    page = report.page(results, report.limits(), "../docs/benchmarks", report.gains())
    assert (RESULTS.parent / "RESULTS.md").read_text() == page, "python -m benchmarks --render"
    readme = (RESULTS.parents[1] / "README.md").read_text()
    assert report.with_headlines(readme, results) == readme
