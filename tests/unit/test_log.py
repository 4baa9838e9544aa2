"""Structured log lines as JSON and as text, and timed phases."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from workers.contract.log import NAME, configure, log, phase


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    logger = logging.getLogger(NAME)
    before = (logger.handlers, logger.level, logger.propagate)
    yield
    logger.handlers, logger.level, logger.propagate = before


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    log("run ended", state="failed", run="r", worker="h:1", node="", nothing=None, zero=0)
    [line] = capsys.readouterr().err.splitlines()
    plain = json.loads(line)
    assert plain.pop("at") > 0
    assert plain == {
        "level": "info", "message": "run ended", "run": "r", "worker": "h:1", "state": "failed", "zero": 0,
    }  # fmt: skip
    assert list(plain)[2:] == ["run", "worker", "state", "zero"]  # known fields come first


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure("text")
    log("run ended", state="failed", run="r", level=logging.WARNING)
    assert capsys.readouterr().err[8:] == " warning run ended  run=r state=failed\n"


@pytest.mark.parametrize("name", ["json", "text"])
def test_exceptions_are_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(name)
    try:
        raise ValueError("broken")
    except ValueError:
        log("oh", exc_info=True)
    output = capsys.readouterr().err
    assert "ValueError: broken" in output
    assert "Traceback" in output


def test_auto_format_is_json_without_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    log("x")
    assert json.loads(capsys.readouterr().err)["message"] == "x"


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    configure("text", "warning")
    log("quiet")
    log("loud", level=logging.ERROR)
    assert "quiet" not in (output := capsys.readouterr().err)
    assert "loud" in output


def test_second_configuration_does_not_duplicate_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure("text")
    configure("text")
    log("once")
    assert capsys.readouterr().err.count("once") == 1


def test_phases_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "DEBUG")
    with phase("submit", run="r"):
        pass
    with pytest.raises(KeyError), phase("collect", run="r"):
        raise KeyError("x")
    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (first["message"], first["phase"], first["run"]) == ("submit", "submit", "r")
    assert 0 <= first["duration"] < 1
    assert (second["message"], second["phase"]) == ("collect raised KeyError", "collect")
