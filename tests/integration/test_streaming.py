"""Lines are heard while dbt is at work, in dbt's order, from real workers on a real server."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from producer import DbtRunner
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import Ear, Gate, runner
from tests.support.worker_pool import WorkerPool, WorkerPools


@pytest.fixture(scope="module")
def pool(module_worker_pool: WorkerPools) -> WorkerPool:
    return module_worker_pool(2)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project("trial", tmp_path_factory.mktemp("trial"))


@pytest.fixture
def make_runner(pool: WorkerPool, project: Path, redis_server: RedisServer) -> Callable[..., DbtRunner]:
    return lambda **options: runner(redis_server, project, **options)


def test_lines_are_heard_while_the_model_is_still_at_work(
    make_runner: Callable[..., DbtRunner], tmp_path: Path
) -> None:
    """The model ends only after its first line was heard: a line that came later would never come."""
    gate, heard = Gate(tmp_path / "gate"), []

    def on_line(line: str) -> None:
        heard.append(line)
        if "before the gate" in line:
            assert any("START sql table model main.gated" in earlier for earlier in heard)
            gate.open()

    result = make_runner().execute_command(
        ["run", "--select", "gated"], dbt_vars={"gate": str(gate.path)}, on_line=on_line
    )
    assert result.success, result.stdout
    words = "\n".join(heard)
    places = [
        words.index(word) for word in ("Running with dbt", "START", "before", "behind", "OK created", "Done.")
    ]
    assert places == sorted(places)
    assert heard == result.stdout.splitlines()


def test_a_line_takes_well_under_a_second_from_dbt_to_the_caller(
    make_runner: Callable[..., DbtRunner],
) -> None:
    ear = Ear()
    result = make_runner(on_event=ear).execute_command(["run", "--select", "talker"], stream_output=False)
    assert result.success, result.stdout
    steps = [each for each in ear.lines if "of the talker" in each.event.text]
    assert [each.event.text.split()[2] for each in steps] == ["0", "1", "2"]
    # three steps of 0.3 s each: a line that waited for the node's end would be late by that
    assert all(each.at - each.event.at < 0.5 for each in steps), [each.at - each.event.at for each in steps]
    assert all(later.at - earlier.at > 0.25 for earlier, later in pairwise(steps))


def test_a_line_says_where_when_and_by_whom(make_runner: Callable[..., DbtRunner]) -> None:
    ear = Ear()
    result = make_runner(on_event=ear).execute_command(["run", "--select", "talker"], stream_output=False)
    [step, *_] = [each.event for each in ear.lines if "of the talker" in each.event.text]
    assert (step.run_id, step.node, step.level, step.attempt) == (
        result.run_id,
        "model.trial.talker",
        "info",
        1,
    )
    [talker] = result.nodes
    assert step.worker == talker.worker
    assert talker.started_at <= step.at <= talker.finished_at
    assert [each.event.seq for each in ear.heard] == list(range(1, len(ear.heard) + 1))


def test_thousands_of_lines_arrive_in_order(make_runner: Callable[..., DbtRunner]) -> None:
    heard: list[str] = []
    result = make_runner().execute_command(
        ["run-operation", "say", "--args", "{words: line, times: 3000}"], on_line=heard.append
    )
    assert result.success, result.stdout[-500:]
    numbers = [int(line.rpartition(" ")[2]) for line in heard if "  line " in line]
    assert numbers == list(range(3000))


@pytest.mark.parametrize("streaming", [True, False])
def test_lines_are_printed_where_nobody_else_takes_them(
    make_runner: Callable[..., DbtRunner], streaming: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    result = make_runner().execute_command(["ls"], stream_output=streaming)
    assert "trial.int.int_model_a" in result.stdout
    assert capsys.readouterr().out == (result.stdout if streaming else "")
