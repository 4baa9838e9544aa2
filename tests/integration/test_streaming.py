"""Callers receive lines while dbt is running, in dbt's order, from real workers on a real server."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from producer import DbtRunner
from tests.support.projects import copy_project
from tests.support.redis_server import RedisServer
from tests.support.runs import EventRecorder, Gate, runner
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


def test_lines_are_received_while_the_model_is_running(
    make_runner: Callable[..., DbtRunner], tmp_path: Path
) -> None:
    """The model ends only after the caller has received its first line."""
    gate, received = Gate(tmp_path / "gate"), []

    def on_line(line: str) -> None:
        received.append(line)
        if "before the gate" in line:
            assert any("START sql table model main.gated" in earlier for earlier in received)
            gate.open()

    result = make_runner().execute_command(
        ["run", "--select", "gated"], dbt_vars={"gate": str(gate.path)}, on_line=on_line
    )
    assert result.success, result.stdout
    words = "\n".join(received)
    places = [
        words.index(word) for word in ("Running with dbt", "START", "before", "behind", "OK created", "Done.")
    ]
    assert places == sorted(places)
    assert received == result.stdout.splitlines()


def test_line_reaches_the_caller_in_less_than_half_a_second(
    make_runner: Callable[..., DbtRunner],
) -> None:
    recorder = EventRecorder()
    result = make_runner(on_event=recorder).execute_command(
        ["run", "--select", "talker"], stream_output=False
    )
    assert result.success, result.stdout
    steps = [each for each in recorder.lines if "of the talker" in each.event.text]
    assert [each.event.text.split()[2] for each in steps] == ["0", "1", "2"]
    # three steps of 0.3 s each: a line sent at the node's end would be that late
    assert all(each.at - each.event.at < 0.5 for each in steps), [each.at - each.event.at for each in steps]
    assert all(later.at - earlier.at > 0.25 for earlier, later in pairwise(steps))


def test_line_has_node_time_and_worker(make_runner: Callable[..., DbtRunner]) -> None:
    recorder = EventRecorder()
    result = make_runner(on_event=recorder).execute_command(
        ["run", "--select", "talker"], stream_output=False
    )
    [step, *_] = [each.event for each in recorder.lines if "of the talker" in each.event.text]
    assert (step.run_id, step.node, step.level, step.attempt) == (
        result.run_id,
        "model.trial.talker",
        "info",
        1,
    )
    [talker] = result.nodes
    assert step.worker == talker.worker
    assert talker.started_at <= step.at <= talker.finished_at
    assert [each.event.seq for each in recorder.received] == list(range(1, len(recorder.received) + 1))


def test_thousands_of_lines_arrive_in_order(make_runner: Callable[..., DbtRunner]) -> None:
    received: list[str] = []
    result = make_runner().execute_command(
        ["run-operation", "say", "--args", "{words: line, times: 3000}"], on_line=received.append
    )
    assert result.success, result.stdout[-500:]
    numbers = [int(line.rpartition(" ")[2]) for line in received if "  line " in line]
    assert numbers == list(range(3000))


@pytest.mark.parametrize("streaming", [True, False])
def test_lines_are_printed_if_streaming_and_no_callback(
    make_runner: Callable[..., DbtRunner], streaming: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    result = make_runner().execute_command(["ls"], stream_output=streaming)
    assert "trial.int.int_model_a" in result.stdout
    assert capsys.readouterr().out == (result.stdout if streaming else "")
