"""``dbt-relay purge``: arguments, the call to `RelayClient.purge`, kept one-off runs, and the report."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from producer.cli import broker
from producer.cli import main as cli
from producer.following.kept_runs import KeptRun, keep, kept_run
from workers.contract.keys import new_run_id
from workers.contract.purge import Purged

ONE = "20260101T000000-0123456789ab"
TWO = "20260102T000000-0123456789ab"


class Client:
    """In place of `RelayClient`."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.answer = Purged()

    def purge(self, **options: Any) -> Purged:
        self.calls.append(options)
        return self.answer


@pytest.fixture(autouse=True)
def runtime_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("DBT_RELAY_BROKER_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DBT_RELAY_RUNTIME_DIR", str(tmp_path / "r"))
    return tmp_path / "r"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr(broker, "client_if_any", lambda: made)
    return made


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], {"older_than": None, "named": None, "force": False}),
        (["--all"], {"older_than": 0.0, "named": None, "force": False}),
        (["--older-than", "90s"], {"older_than": 90.0, "named": None, "force": False}),
        (["--older-than", "1.5h"], {"older_than": 5400.0, "named": None, "force": False}),
        (["--older-than", "2w"], {"older_than": 1209600.0, "named": None, "force": False}),
        ([TWO, ONE, "--force"], {"older_than": None, "named": [ONE, TWO], "force": True}),
    ],
)
def test_arguments_become_options_of_the_client(
    client: Client, words: list[str], options: dict[str, Any]
) -> None:
    assert cli.main(["purge", *words]) == 0
    assert client.calls == [{**options, "wait": 15.0}]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--older-than", "soon"], "'soon' is not an age such as 90s, 30m, 12h, 7d or 2w"),
        (["--all", "--older-than", "1d"], "one of them"),
        (["--all", ONE], "one of them"),
        (["--all", "--force"], "--force needs the names of runs"),
    ],
)
def test_invalid_arguments_are_refused(
    client: Client, capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    assert cli.main(["purge", *words]) == 2
    assert text in capsys.readouterr().err
    assert client.calls == []


def test_report_counts_what_was_removed(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.answer = Purged(
        runs=[ONE], recent=[TWO], orphans=2, watches=1, locks=1, workers=["a:1", "b:2"], unreadable=3
    )
    assert cli.main(["purge", "--older-than", "1d"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        (
            "Removed 1 run, 2 dead workers, 1 orphaned lease, 1 orphaned lock, 2 orphaned keys, "
            "3 unreadable values."
        ),
        "Kept ended runs: 1. --older-than 1h removes those that ended earlier, --all all.",
    ]


def test_active_run_is_not_removed_without_force(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.answer = Purged(live=[ONE])
    assert cli.main(["purge", ONE, TWO]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{ONE} is active and was not removed. --force cancels and removes it.",
        f"{TWO} is not known, or no longer.",
        "Removed nothing.",
    ]


def test_run_that_does_not_end_after_its_cancel_is_reported(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    client.answer = Purged(forced=[ONE])
    assert cli.main(["purge", ONE, "--force"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{ONE} did not end after its cancel; it was removed while workers were executing it.",
        "Removed 1 run.",
    ]


# ---------------------------------------------------------------- kept one-off runs


def one_off(runtime_dir: Path, *, hours_ago: float = 0) -> str:
    """Keep a one-off run that ended some hours ago; its id."""
    ended = time.time() - 3600 * hours_ago
    run_id = new_run_id(now=ended)
    assert keep(os.environ, run_id, KeptRun(fields={}, lines=[]))
    os.utime(runtime_dir / "ended" / run_id, (ended, ended))
    return run_id


def test_one_off_runs_are_removed_by_the_same_age_rules(
    client: Client, runtime_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, recent = one_off(runtime_dir, hours_ago=2), one_off(runtime_dir)
    client.answer = Purged(runs=[ONE])
    assert cli.main(["purge", "--older-than", "1h"]) == 0
    assert (kept_run(os.environ, old), kept_run(os.environ, recent) is None) == (None, False)
    assert capsys.readouterr().out.splitlines() == [
        "Removed 1 run, 1 one-off run.",
        "Kept ended runs: 1. --older-than 1h removes those that ended earlier, --all all.",
    ]


def test_purge_without_arguments_removes_no_one_off_run(
    client: Client, runtime_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = one_off(runtime_dir)
    assert cli.main(["purge"]) == 0
    assert kept_run(os.environ, run_id) is not None
    assert capsys.readouterr().out.startswith("Removed nothing.\nKept ended runs: 1.")


def test_named_one_off_run_is_removed_without_a_broker(
    runtime_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named, other = one_off(runtime_dir), one_off(runtime_dir, hours_ago=1)
    assert cli.main(["purge", named]) == 0
    assert (kept_run(os.environ, named), kept_run(os.environ, other) is None) == (None, False)
    assert capsys.readouterr().out == "Removed 1 one-off run.\n"


def test_all_one_off_runs_are_removed_without_a_broker(
    runtime_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for hours in range(3):
        one_off(runtime_dir, hours_ago=hours)
    assert cli.main(["purge", "--all"]) == 0
    assert capsys.readouterr().out == "Removed 3 one-off runs.\n"
    assert list((runtime_dir / "ended").iterdir()) == []


def test_without_broker_and_one_off_runs_the_broker_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["purge", "--all"]) == 2
    assert "no broker is configured" in capsys.readouterr().err
