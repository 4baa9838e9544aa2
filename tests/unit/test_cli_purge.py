"""``dbt-relay purge``: what it asks for, and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from producer.cli import broker
from producer.cli import main as cli
from workers.contract.purge import Purged

ONE = "20260101T000000-0123456789ab"
TWO = "20260102T000000-0123456789ab"


class Client:
    """Stands for `RelayClient`."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer = Purged()

    def purge(self, **options: Any) -> Purged:
        self.asked.append(options)
        return self.answer


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr(broker, "client", lambda: made)
    return made


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], {"older_than": None, "named": None, "force": False}),
        (["--all"], {"older_than": 0.0, "named": None, "force": False}),
        (["--older-than", "90s"], {"older_than": 90.0, "named": None, "force": False}),
        (["--older-than", "1.5h"], {"older_than": 5400.0, "named": None, "force": False}),
        (["--older-than", "2w"], {"older_than": 1209600.0, "named": None, "force": False}),
        ([TWO, ONE, "--force"], {"older_than": None, "named": [ONE, TWO], "force": True}),
    ],
)
def test_what_is_asked_for(client: Client, words: list[str], asked: dict[str, Any]) -> None:
    assert cli.main(["purge", *words]) == 0
    assert client.asked == [{**asked, "wait": 15.0}]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--older-than", "soon"], "'soon' is not an age such as 90s, 30m, 12h, 7d or 2w"),
        (["--all", "--older-than", "1d"], "one of them"),
        (["--all", ONE], "one of them"),
        (["--all", "--force"], "--force needs the runs that it is for"),
    ],
)
def test_what_is_refused(
    client: Client, capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    assert cli.main(["purge", *words]) == 2
    assert text in capsys.readouterr().err
    assert client.asked == []


def test_it_says_what_it_removed(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.answer = Purged(runs=[ONE], recent=[TWO], orphans=2, watches=1, locks=1, workers=["a:1", "b:2"])
    assert cli.main(["purge", "--older-than", "1d"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Removed 1 run, 2 dead workers, 1 orphaned lease, 1 orphaned lock, 2 orphaned keys.",
        "Kept ended runs: 1. --older-than 1h removes some of them, --all all.",
    ]


def test_a_run_that_is_still_going_is_left_alone(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.answer = Purged(live=[ONE])
    assert cli.main(["purge", ONE, TWO]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{ONE} is still going: left alone. --force cancels and removes it.",
        f"{TWO} is not known (any more).",
        "Removed nothing.",
    ]


def test_a_run_that_would_not_end_is_named(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.answer = Purged(forced=[ONE])
    assert cli.main(["purge", ONE, "--force"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{ONE} did not end when it was cancelled; what workers still hold of it is dropped.",
        "Removed 1 run.",
    ]
