"""Periodic threads."""

from __future__ import annotations

import threading

import pytest
import redis

from tests.support.waiting import wait_until
from workers.contract.log import configure
from workers.supervision.periodic_thread import PeriodicThread


@pytest.mark.parametrize(
    ("error", "traced"), [(redis.ConnectionError("away"), False), (RuntimeError("not foreseen"), True)]
)
def test_thread_continues_after_an_error_and_logs_it(
    error: Exception, traced: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("json")
    looks, errors = [], [error]

    def look() -> None:
        looks.append(1)
        if errors:
            raise errors.pop()

    rounds = PeriodicThread("looking", look, interval=0.01, failed="could not look", phase="reap")
    rounds.start()
    wait_until(lambda: len(looks) > 2, 5)
    rounds.stop()
    assert not any(thread.name == "looking" for thread in threading.enumerate())
    output = capsys.readouterr().err
    assert output.count("could not look") == 1
    assert str(error) in output
    assert ("Traceback" in output) is traced


def test_stopping_a_thread_that_was_not_started_does_nothing() -> None:
    PeriodicThread("looking", lambda: None, interval=1, failed="", phase="").stop()
    assert not any(thread.name == "looking" for thread in threading.enumerate())
