"""dbt's log file: records that workers send, and the file that the caller writes."""

from __future__ import annotations

import logging
import random
import re
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dbt.adapters.events.types import SQLQuery
from dbt.events.logging import setup_event_logger
from dbt_common.events.base_types import EventLevel
from dbt_common.events.event_manager_client import cleanup_event_logger, get_event_manager
from dbt_common.events.functions import fire_event
from dbt_common.events.types import Formatting, Note, PrintEvent

from producer.dbt_cli.arguments import parse_invocation
from producer.following.file_log import MAX_BYTES, LogFile, open_log
from workers.contract.errors import DbtUsageError
from workers.contract.events import RECORD, Event, decode_records, encode_records, join_records
from workers.engine.output.events import LineSink, install_event_manager

FLAGS = {
    "LOG_LEVEL": "info", "LOG_FORMAT": "default", "USE_COLORS": False, "LOG_CACHE_EVENTS": False, "QUIET": False,
    "DEBUG": False, "LOG_LEVEL_FILE": "debug", "LOG_FORMAT_FILE": "debug", "USE_COLORS_FILE": True,
    "LOG_FILE_MAX_BYTES": MAX_BYTES,
}  # fmt: skip
EVENTS = (
    (Note(msg="deep\ndown"), EventLevel.DEBUG), (Note(msg="hello"), EventLevel.INFO),
    (Note(msg="careful"), EventLevel.WARN), (Note(msg="no"), EventLevel.ERROR),
    (Formatting(""), EventLevel.INFO), (PrintEvent(msg="printed"), EventLevel.INFO),
)  # fmt: skip


def fire_all() -> None:
    for event, level in EVENTS:
        fire_event(event, level=level)


def masked(text: str) -> str:
    return re.sub(r'\d\d:\d\d:\d\d(\.\d+)?|"ts": "[^"]+"|"invocation_id": "[^"]+"', "-", text)


@pytest.mark.parametrize(
    "changed",
    [
        {}, {"DEBUG": True}, {"QUIET": True}, {"LOG_LEVEL": "none"}, {"LOG_LEVEL": "debug"},
        {"LOG_LEVEL_FILE": "info"}, {"LOG_LEVEL_FILE": "error"}, {"LOG_LEVEL_FILE": "none"},
        {"LOG_FORMAT_FILE": "text"}, {"LOG_FORMAT_FILE": "json"}, {"LOG_FORMAT_FILE": "default"},
        {"USE_COLORS_FILE": False}, {"LOG_FORMAT_FILE": "json", "LOG_LEVEL_FILE": "warn"},
    ],
)  # fmt: skip
def test_records_equal_those_of_dbts_file_logger(changed: dict[str, Any], tmp_path: Path) -> None:
    flags = SimpleNamespace(**{**FLAGS, "LOG_PATH": str(tmp_path), **changed})
    events: list[Event] = []
    install_event_manager()
    try:
        setup_event_logger(flags)
        fire_all()
        cleanup_event_logger()
        sink = LineSink(flags, "run", "@plan", events.append, file_log=True)
        get_event_manager().callbacks.append(sink)
        fire_all()
        sink.flush_records()
    finally:
        cleanup_event_logger()
    records = [
        each for event in events if event.kind == RECORD for each in decode_records(event.text.encode())
    ]
    written = (tmp_path / "dbt.log").read_text() if (tmp_path / "dbt.log").exists() else ""
    assert masked("".join(f"{record}\n" for record in records)) == masked(written)


def test_no_records_without_file_log() -> None:
    events: list[Event] = []
    sink = LineSink(SimpleNamespace(**FLAGS), "run", "@plan", events.append)
    cleanup_event_logger()
    get_event_manager().callbacks.append(sink)
    fire_all()
    sink.flush_records()
    cleanup_event_logger()
    assert not [event for event in events if event.kind == RECORD]


def test_secrets_of_the_environment_are_masked_in_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBT_ENV_SECRET_WORD", "hunter2")
    events: list[Event] = []
    sink = LineSink(SimpleNamespace(**FLAGS), "run", "@plan", events.append, file_log=True)
    cleanup_event_logger()
    get_event_manager().callbacks.append(sink)
    sink.handle_debug(SQLQuery(conn_name="c", sql="select 'hunter2'", node_info={}))
    fire_event(Note(msg="with hunter2 in it"))
    sink.flush_records()
    cleanup_event_logger()
    records = [
        each for event in events if event.kind == RECORD for each in decode_records(event.text.encode())
    ]
    assert len(records) == 2
    assert not [each for each in records if "hunter2" in each]


def test_records_are_encoded_and_decoded_unchanged() -> None:
    parts = [["one", 'quo"te\n'], ["lone \ud800 surrogate"], ["["]]
    joined = join_records([encode_records(part).decode() for part in parts])
    assert decode_records(joined) == ["one", 'quo"te\n', "lone \\ud800 surrogate", "["]


@pytest.mark.parametrize("max_bytes", [0, 700, 5000])
def test_file_is_rotated_as_by_dbts_handler(max_bytes: int, tmp_path: Path) -> None:
    chance = random.Random(max_bytes)
    records = ["é" * chance.randrange(300) + "\n" * chance.randrange(2) for _ in range(200)]
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dbt.log").write_text("from before\n")
    ours = LogFile(tmp_path / "ours" / "dbt.log", max_bytes)
    at = 0
    while at < len(records):
        size = chance.randrange(1, 20)
        ours.write(records[at : at + size])
        at += size
    ours.close()
    theirs = RotatingFileHandler(
        tmp_path / "theirs" / "dbt.log", encoding="utf8", maxBytes=max_bytes, backupCount=5
    )
    for record in records:
        theirs.emit(logging.makeLogRecord({"msg": record}))
    theirs.close()
    left = [
        {path.name: path.read_text() for path in (tmp_path / name).iterdir()} for name in ("ours", "theirs")
    ]
    assert left[0] == left[1]
    assert len(left[0]) == (1 if max_bytes == 0 else 6)


def opened(project: Path, *args: str, **environ: str) -> LogFile | None:
    invocation = parse_invocation(["run", *args], environ=environ, cwd=project)
    return open_log(invocation, cwd=project, environ=environ)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "dbt_project.yml").write_text("name: p\n")
    return tmp_path / "p"


@pytest.mark.parametrize(
    ("config", "args", "environ", "where"),
    [
        ("", (), {}, "p/logs"),
        ("log-path: own", (), {}, "p/own"),
        ("log-path: own", (), {"DBT_LOG_PATH": "../from_env"}, "from_env"),
        ("log-path: own", ("--log-path", "given"), {"DBT_LOG_PATH": "from_env"}, "p/given"),
    ],
)
def test_file_is_in_dbts_log_folder(
    config: str, args: tuple[str, ...], environ: dict[str, str], where: str, project: Path
) -> None:
    (project / "dbt_project.yml").write_text(f"name: p\n{config}\n")
    file = opened(project, *args, **environ)
    assert file is not None
    file.close()
    assert file.path == project.parent / where / "dbt.log"
    assert file.path.exists()


@pytest.mark.parametrize(
    ("config", "args"),
    [
        ("", ("--log-level-file", "none")),
        ("", ("--log-level", "none")),
        ("flags: {log_level_file: none}", ()),
        ("flags: {log_level: none}", ()),
    ],
)
def test_only_the_folder_is_created_where_dbt_writes_no_file(
    config: str, args: tuple[str, ...], project: Path
) -> None:
    (project / "dbt_project.yml").write_text(f"name: p\n{config}\n")
    assert opened(project, *args) is None
    assert list((project / "logs").iterdir()) == []


def test_level_of_the_file_overrides_the_consoles(project: Path) -> None:
    file = opened(project, "--log-level", "none", "--log-level-file", "info")
    assert file is not None
    file.close()


def test_file_that_cannot_be_opened_is_an_error(project: Path) -> None:
    with pytest.raises(DbtUsageError, match=r"dbt's log file /dev/null/x/dbt.log cannot be opened"):
        opened(project, "--log-path", "/dev/null/x")
    (project / "logs" / "dbt.log").mkdir(parents=True)
    with pytest.raises(DbtUsageError, match="Is a directory"):
        opened(project)
