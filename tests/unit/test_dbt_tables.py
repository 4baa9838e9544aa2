"""The tables of options by which a command line is read: the packaged one, and those that workers published."""

from __future__ import annotations

import copy
import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from producer import worker_tables
from producer.client import RelayClient
from producer.client import relay_client as client_module
from producer.dbt_cli import options
from producer.dbt_cli.arguments import parse_invocation
from producer.dbt_cli.invocation import Invocation
from producer.dbt_cli.options import Table, packaged
from producer.dbt_cli.tables import read_with_tables
from producer.embedded import stack as embedded
from workers.contract.command_line import MAX_BYTES, pack, unpack
from workers.contract.errors import DbtUsageError
from workers.contract.keys import Keys

PACKAGED = json.loads((Path(options.__file__).parent / "options.json").read_text("utf-8"))
LATER = "1.99.0"
BROKER = {"DBT_RELAY_BROKER_URL": "redis://nowhere:1/0"}


def later_dbt() -> dict[str, Any]:
    """Describe a later dbt: `seed --empty`, `run-operation --sql` without a macro, a new global option and command."""
    plain = copy.deepcopy(PACKAGED)
    plain["dbt_versions"] = [LATER]
    plain["options"]["sql"] = {"opts": ["--sql"], "kind": "text"}
    plain["options"]["size"] = {"opts": ["--maximum-seed-size-mib"], "kind": "int"}
    commands = plain["commands"]
    commands["seed"]["options"].append("empty")
    commands["run-operation"]["options"].append("sql")
    commands["run-operation"]["arguments"] = [{"name": "macro", "required": False}]
    commands[""]["options"].append("size")
    commands["explain"] = {"options": ["select"], "arguments": []}
    return dict(plain)


Register = Callable[..., None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Registers a worker with a release of dbt, and publishes its table."""
    redis, keys = fakeredis.FakeRedis(), Keys()
    monkeypatch.setattr(client_module, "connect", lambda _, **__: redis)

    def add(release: str, described: bytes = b"", queue: str = "dbt-relay") -> None:
        now = time.time()
        registration = {
            "host": "h",
            "pid": 1,
            "processes": 1,
            "version": "1",
            "queue": queue,
            "since": now,
            "seen": now,
        }
        redis.hset(
            keys.workers(),
            release or "old",
            json.dumps({**registration, **({"dbt": release} if release else {})}),
        )
        if described:
            redis.set(keys.command_line(release), described)

    return add


def read(*words: str, environ: dict[str, str] | None = None, cwd: Path = Path(__file__).parent) -> Invocation:
    environ = BROKER if environ is None else environ
    return read_with_tables(
        lambda table: parse_invocation(words, environ=environ, cwd=cwd, table=table),
        lambda: worker_tables.worker_tables(environ),
    )


def lenient(*words: str) -> Invocation:
    return parse_invocation(words, environ={}, cwd=Path(__file__).parent, table=packaged().as_lenient())


def test_workers_tables_are_not_read_where_the_packaged_table_accepts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_tables, "worker_tables", lambda _: pytest.fail("read"))
    assert read("run", "--select", "a").options["select"] == ("a",)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("seed", "--empty"), {"empty": True}),
        (("run-operation", "--sql", "select 1"), {"sql": "select 1"}),
        (("--maximum-seed-size-mib", "5", "run"), {"size": 5}),
        (("explain", "--select", "a", "b"), {"select": ("a", "b")}),
    ],
)
def test_options_of_the_workers_dbt_are_accepted(
    register: Register, words: tuple[str, ...], expected: dict[str, Any]
) -> None:
    register(LATER, pack(later_dbt()))
    assert read(*words).options == expected


def test_misspelt_option_is_refused_where_workers_published_their_table(register: Register) -> None:
    register(LATER, pack(later_dbt()))
    with pytest.raises(DbtUsageError, match=r"No such option '--selct'\. .*'--select'"):
        read("run", "--selct", "a")


@pytest.mark.parametrize("release", [packaged().dbt_versions()[-1], packaged().dbt_versions()[0]])
def test_packaged_release_needs_no_published_table(register: Register, release: str) -> None:
    register(release)
    with pytest.raises(DbtUsageError, match="--empty"):
        read("seed", "--empty")


@pytest.mark.parametrize("release", [LATER, ""])
def test_unknown_options_are_passed_to_a_worker_without_a_table(register: Register, release: str) -> None:
    register(packaged().dbt_versions()[-1])
    register(release)
    assert read("seed", "--brand-new", "value", "--threads", "2").options == {"threads": 2}


def test_workers_of_another_queue_are_ignored(register: Register) -> None:
    register(packaged().dbt_versions()[-1])
    register(LATER, pack(later_dbt()), queue="another")
    with pytest.raises(DbtUsageError, match="--empty"):
        read("seed", "--empty")


def test_without_a_broker_the_installed_dbt_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_running", lambda _: None)
    monkeypatch.setattr(worker_tables, "_installed_release", lambda: [packaged().dbt_versions()[-1]])
    with pytest.raises(DbtUsageError, match="--empty"):
        read("seed", "--empty", environ={})
    monkeypatch.setattr(worker_tables, "_installed_release", lambda: [LATER])
    assert read("seed", "--empty", environ={}).options == {"empty": True}


def test_workers_tables_are_not_read_for_errors_of_any_dbt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_tables, "worker_tables", lambda _: pytest.fail("read"))
    with pytest.raises(DbtUsageError, match="YAML"):
        read("run", "--vars", "{a: ")


# ---------------------------------------------------------------- junk in Redis


def bomb() -> bytes:
    return zlib.compress(b" " * (MAX_BYTES + 1))


def changed(**more: Any) -> bytes:
    return zlib.compress(json.dumps({**later_dbt(), **more}).encode())


JUNK = {
    "noise": b"\x00junk", "text": zlib.compress(b"{"), "list": zlib.compress(b"[]"), "bomb": bomb(),
    "deep": zlib.compress(b"[" * 500_000), "cut": pack(later_dbt())[:-20],
    "version": changed(version=2), "no root": changed(commands={}),
    "alias": changed(aliases={"r": "nothing"}), "spelling": changed(options={"a": {"opts": ["rm -rf"], "kind": "flag"}}),
    "kind": changed(options={"a": {"opts": ["--a"], "kind": "code"}}),
}  # fmt: skip


@pytest.mark.parametrize("name", JUNK)
def test_invalid_table_in_redis_is_ignored(register: Register, name: str) -> None:
    assert unpack(JUNK[name]) is None
    register(LATER, JUNK[name])
    assert read("seed", "--empty").options == {"empty": True}


def test_invalid_registration_in_redis_is_ignored(register: Register) -> None:
    register(LATER)
    client = RelayClient("redis://nowhere:1/0")
    for name, value in enumerate((b"\xff", b"{", b"[]", b'{"dbt": 3}', b"[" * 200_000)):
        client.store.client.hset(Keys().workers(), f"junk{name}", value)
    assert [worker.dbt for worker in client.workers()] == [LATER]


def test_table_is_packed_and_unpacked(tmp_path: Path) -> None:
    plain = unpack(pack(PACKAGED))
    assert plain is not None
    sent, known = Table(plain), packaged()
    assert sent.dbt_versions() == known.dbt_versions()
    for name in ("", "docs", *known.command_names()):
        assert sent.command(name) == known.command(name)
    assert len(pack(PACKAGED)) < 8192


# ---------------------------------------------------------------- options that no table has


@pytest.mark.parametrize(
    ("words", "command", "options"),
    [
        (("run", "--new", "--select", "a"), "run", {"select": ("a",)}),
        (("run", "--new", "x", "y", "--select", "a"), "run", {"select": ("a",)}),
        (("run", "--new=x", "-s", "a"), "run", {"select": ("a",)}),
        (("run", "-Zx", "-s", "a"), "run", {"select": ("a",)}),
        (("run", "-Z", "x", "-s", "a"), "run", {"select": ("a",)}),
        (("--new", "run", "-s", "a"), "run", {"select": ("a",)}),
        (("--new", "5", "run", "-s", "a"), "run", {"select": ("a",)}),
        (("--new=run", "docs", "generate"), "docs generate", {}),
        (("seed", "--empty", "--threads", "2"), "seed", {"empty": True, "threads": 2}),
        (("run-operation", "--sql", "select 1", "--project-dir", "."), "run-operation", {"project_dir": "."}),
        (("explain", "--project-dir", ".", "what"), "explain", {"project_dir": "."}),
        (("run", "--log-format", "xml"), "run", {"log_format": "xml"}),
        (("run", "--threads", "auto"), "run", {"threads": "auto"}),
        (("run-operation",), "run-operation", {}),
        (("run", "--new"), "run", {}),
        (("run", "--select"), "run", {}),
    ],
)
def test_lenient_table_passes_unknown_options_on(
    words: tuple[str, ...], command: str, options: dict[str, Any]
) -> None:
    invocation = lenient(*words)
    assert (invocation.args, invocation.command, invocation.options) == (words, command, options)


def test_table_covers_earlier_patches_of_its_releases() -> None:
    table = Table({**PACKAGED, "dbt_versions": ["1.11.16"]})
    assert [table.covers(release) for release in ("1.11.16", "1.11.2", "1.11.17", "1.12.0", "1.11.0rc1", "", "x")] == [
        True, True, False, False, False, False, False,
    ]  # fmt: skip
