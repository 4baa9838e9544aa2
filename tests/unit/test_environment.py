"""Selection of the environment values that a remote caller sends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.projects import PROJECTS
from workers.contract.environment import (
    MAX_FILE_BYTES,
    NAMES,
    Withheld,
    allowed,
    denied,
    encode_withheld,
    matching,
    names_noted,
    names_used,
    withheld_by,
)
from workers.contract.settings import Settings

DENY = Settings().env_deny


def test_names_are_found_where_dbt_reads_them(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.sql").write_text("{{ env_var('ONE') }} {{ env_var( \"TWO\" , 'x') }}")
    (tmp_path / "models" / "b.py").write_text("env_var('THREE')")
    (tmp_path / "profiles.yml").write_text("path: \"{{ env_var('FOUR') }}\"")
    (tmp_path / "dbt_project.yml").write_text(
        "on-run-start: '{{ env_var(''FIVE'') }}'\non-run-end: \"{{ env_var(\\\"SIX\\\") }}\"\n"
    )
    (tmp_path / "notes.txt").write_text("env_var('NOT_READ')")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "a.sql").write_text("env_var('COMPILED')")
    assert names_used([tmp_path]) == {"ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX"}


def test_unreadable_and_binary_files_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_bytes(b"\xff\xfe env_var('KEPT') \x00")
    (tmp_path / "huge.sql").write_bytes(b"x" * MAX_FILE_BYTES + b" env_var('HUGE')")
    (tmp_path / "folder.sql").mkdir()
    (tmp_path / "gone.sql").symlink_to(tmp_path / "nowhere")
    assert names_used([tmp_path, tmp_path / "absent"]) == {"KEPT"}


def test_a_real_project() -> None:
    assert {"RELAY_TEST_DUCKDB", "PGHOST", "DBT_ENV_SECRET_PG_PASSWORD"} <= names_used([PROJECTS / "small"])


def test_names_for_dbts_artifacts_are_sent_though_the_project_does_not_read_them() -> None:
    noted = names_noted({"DBT_ENV_CUSTOM_ENV_TEAM": "x", "DBT_TARGET": "x", "TEAM": "x"})
    assert noted == {"DBT_ENV_CUSTOM_ENV_TEAM"}
    assert allowed(dict.fromkeys(noted, "x"), DENY) == {"DBT_ENV_CUSTOM_ENV_TEAM": "x"}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("DATABASE_PATH", True), ("PGHOST", True), ("DBT_TARGET", True),
        ("DBT_ENV_SECRET_TOKEN", False), ("dbt_env_secret_x", False), ("DBT_RELAY_BROKER_URL", False),
        ("REDIS_URL", False), ("AWS_REGION", False), ("PGPASSWORD", False), ("MY_TOKEN", False),
        ("LD_PRELOAD", False), ("PATH", False), ("PYTHONPATH", False),
    ],
)  # fmt: skip
def test_the_deny_list(name: str, kept: bool) -> None:
    assert allowed({name: "x"}, DENY) == ({name: "x"} if kept else {})
    assert denied(name, DENY) is not kept


def test_secrets_are_never_sent() -> None:
    assert allowed({"DBT_ENV_SECRET_A": "x", "DBT_RELAY_QUEUE": "x", "PATH": "/bin"}, " , ") == {
        "PATH": "/bin"
    }


def test_names_are_found_in_a_profile_elsewhere_and_in_linked_packages(tmp_path: Path) -> None:
    for folder in ("project/dbt_packages", "linked", "profiles"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "linked" / "a.sql").write_text("{{ env_var(var='LINKED', default='') }}")
    (tmp_path / "linked" / "upwards").symlink_to(tmp_path / "linked")
    (tmp_path / "project" / "dbt_packages" / "linked").symlink_to(tmp_path / "linked")
    (tmp_path / "profiles" / "profiles.yml").write_text("path: \"{{ env_var( var = 'PROFILE') }}\"")
    found = names_used([tmp_path / "project", tmp_path / "profiles" / "profiles.yml"])
    assert found == {"LINKED", "PROFILE"}


def test_worker_receives_names_of_values_that_were_not_sent() -> None:
    environ = {
        "SENT": "1",
        "UNSENT": "2",
        "DB_PASSWORD": "3",
        "DBT_ENV_SECRET_A": "4",
        "DBT_RELAY_QUEUE": "5",
        "a\udcff": "6",
    }
    encoded = encode_withheld(environ, ["SENT"], DENY)
    assert not set(environ.values()) & set(encoded)
    withheld = withheld_by({NAMES: encoded, "SENT": "1"}, ["LEFT_OUT"])
    assert withheld == Withheld(
        frozenset({"UNSENT"}), frozenset({"DB_PASSWORD", "DBT_ENV_SECRET_A", "LEFT_OUT"})
    )
    for other in ({}, {NAMES: "{"}, {NAMES: "[1]"}):  # an earlier release, a later one
        assert withheld_by(other, []) == Withheld()


def test_further_names_are_sent_by_a_list() -> None:
    assert matching(["SHOP_A", "SHOP_B", "OTHER", "X"], "SHOP_*, X,") == {"SHOP_A", "SHOP_B", "X"}
    assert matching(["A"], "") == set()
