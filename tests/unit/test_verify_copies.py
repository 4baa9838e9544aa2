"""Copies of a project, of DuckDB files and of a profile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from workers.contract.errors import DbtUsageError
from workers.engine.project.profile import Target
from workers.verify.duckdb_copy import DuckDBSource
from workers.verify.profile_copy import write_profiles
from workers.verify.project_copy import copy_project
from workers.verify.verification import source_of


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def target(adapter: str = "duckdb", name: str = "dev", **credentials: Any) -> Target:
    output = {"type": adapter, "path": "{{ env_var('WHERE') }}", "token": "{{ env_var('DBT_ENV_SECRET_T') }}"}
    others = {"prod": {"type": "duckdb", "path": "prod.duckdb"}}
    file = {"shop": {"target": "dev", "outputs": {name: output, **others}}, "other": {"outputs": {}}}
    return Target(profile="shop", name=name, adapter=adapter, credentials=credentials, file=file)


# -- the project


def test_copy_of_a_project_has_no_generated_files(tmp_path: Path) -> None:
    project = tmp_path / "shop"
    kept = ["dbt_project.yml", "models/a.sql", "models/target/b.sql", "models/logs/c.sql", "data/file.csv"]
    made = ["target/manifest.json", "logs/dbt.log", ".git/HEAD", "macros/__pycache__/m.pyc", "env/pyvenv.cfg"]
    for name in (*kept, *made, "shop.duckdb", "out/manifest.json"):
        write(project / name)
    copy_project(project, tmp_path / "copy", [project / "shop.duckdb", project / "out"])
    copied = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")}
    assert {name for name in copied if (tmp_path / "copy" / name).is_file()} == set(kept)


def test_links_point_into_the_copy_or_to_their_original_target(tmp_path: Path) -> None:
    project, outside = tmp_path / "deep" / "shop", write(tmp_path / "data" / "file.csv", "outside")
    write(project / "packages" / "helpers" / "dbt_project.yml", "inside")
    (project / "dbt_packages").mkdir()
    (project / "dbt_packages" / "absolute").symlink_to(project / "packages" / "helpers")
    (project / "dbt_packages" / "relative").symlink_to("../packages/helpers")
    (project / "data").symlink_to("../../data")
    copy = tmp_path / "copy" / "project"
    copy_project(project, copy)
    for name in ("absolute", "relative"):
        assert (copy / "dbt_packages" / name).resolve() == copy / "packages" / "helpers"
    assert (copy / "data" / "file.csv").resolve() == outside


# -- DuckDB


@pytest.mark.parametrize(
    ("credentials", "why"),
    [
        ({}, ":memory:"),
        ({"path": ":memory:"}, ":memory:"),
        ({"path": ":memory:shared"}, ":memory:"),
        ({"path": "md:shop?motherduck_token=abc"}, "MotherDuck"),
        ({"path": "motherduck:shop"}, "MotherDuck"),
        ({"path": "s3://bucket/shop.duckdb"}, "not a file on this machine"),
        ({"path": "ducklake:meta.ducklake"}, "not a file on this machine"),
        ({"path": "a.duckdb", "attach": [{"path": "md:other"}]}, "MotherDuck"),
        ({"path": "a.duckdb", "attach": [{"path": "b.sqlite", "type": "sqlite"}]}, "not a DuckDB file"),
        (
            {"path": "a.duckdb", "attach": [{"path": "b", "options": {"TYPE": "postgres"}}]},
            "not a DuckDB file",
        ),
        ({"path": "a.duckdb", "remote": {"host": "h", "port": 1, "user": "u"}}, "another program"),
        ({"path": "a.duckdb", "external_root": "s3://bucket"}, "external_root"),
        ({"path": "a.duckdb", "external_root": "../lake"}, "external_root"),
    ],
)
def test_warehouse_that_is_not_a_file_is_an_error(
    credentials: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(DbtUsageError) as refused:
        DuckDBSource(credentials, tmp_path)
    assert why in str(refused.value)
    assert "--target" in str(refused.value)
    assert "motherduck_token" not in str(refused.value)


def test_copies_equal_the_files_which_do_not_change(tmp_path: Path) -> None:
    project = tmp_path / "shop"
    project.mkdir()
    for name in ("shop", "other"):
        with duckdb.connect(str(project / f"{name}.duckdb")) as connection:
            connection.execute(f"create table {name}_rows as select 1 as a, 'it''s' as b")
    # a process that ends without a checkpoint leaves a write-ahead log
    unclean = (
        "import duckdb, os; c = duckdb.connect('shop.duckdb'); "
        "c.execute('set wal_autocheckpoint=\"1GB\"'); c.execute('create table late as select 2 as a'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", unclean], cwd=project, check=True)
    assert (project / "shop.duckdb.wal").exists()
    before = {path.name: path.read_bytes() for path in project.iterdir()}
    source = DuckDBSource(
        {"path": "./shop.duckdb", "attach": [{"path": "other.duckdb", "alias": "more"}]}, project
    )
    with source.copies({"plain": tmp_path / "plain", "relay": tmp_path / "relay"}) as copies:
        for name, (warehouse, changes) in copies.items():
            found = warehouse.relations()
            assert found["main.shop_rows"].rows == [(1, "it's")]
            assert found["main.late"].rows == [(2,)]
            assert found["more.main.other_rows"].columns[1][:2] == ("b", "VARCHAR")
            assert warehouse.path.name == "shop.duckdb"  # the catalog's name in SQL
            assert changes["path"] == str(warehouse.path)
            (entry,) = changes["attach"]
            assert entry["alias"] == "more"
            assert Path(entry["path"]).is_relative_to(tmp_path / name)
        copies["plain"][0].execute("drop table shop_rows")
        assert "main.shop_rows" in copies["relay"][0].relations()
    assert {path.name: path.read_bytes() for path in project.iterdir()} == before


def test_file_that_does_not_exist_yet(tmp_path: Path) -> None:
    source = DuckDBSource({"path": "new.duckdb"}, tmp_path)
    with source.copies({"plain": tmp_path / "plain"}) as copies:
        assert copies["plain"][0].relations() == {}
    assert not (tmp_path / "new.duckdb").exists()


def test_file_open_for_writing_elsewhere_is_an_error(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", "import duckdb; c = duckdb.connect('shop.duckdb'); print('open', flush=True); input()"],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        source = DuckDBSource({"path": "shop.duckdb"}, tmp_path)
        with (
            pytest.raises(DbtUsageError, match="Close every program that has it open"),
            source.copies({"plain": tmp_path / "plain"}),
        ):
            pytest.fail("copied")
        holder.communicate("\n")


# -- the profile


def test_profile_has_only_the_target_of_the_copy(tmp_path: Path) -> None:
    write_profiles(tmp_path / "profiles", [target()], {"path": "/copy/shop.duckdb"})
    written = yaml.safe_load((tmp_path / "profiles" / "profiles.yml").read_text())
    assert written == {
        "shop": {
            "target": "dev",
            "outputs": {
                "dev": {
                    "type": "duckdb",
                    "path": "/copy/shop.duckdb",
                    "token": "{{ env_var('DBT_ENV_SECRET_T') }}",  # a secret is not written down
                }
            },
        }
    }
    assert os.stat(tmp_path / "profiles").st_mode & 0o077 == 0


def test_changed_database_replaces_its_alias(tmp_path: Path) -> None:
    postgres = target("postgres")
    postgres.file["shop"]["outputs"]["dev"] = {"type": "postgres", "database": "shop"}
    write_profiles(tmp_path / "profiles", [postgres], {"dbname": "copy"})
    written = yaml.safe_load((tmp_path / "profiles" / "profiles.yml").read_text())
    assert written["shop"]["outputs"]["dev"] == {"type": "postgres", "dbname": "copy"}


def test_other_adapter_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DbtUsageError) as refused:
        source_of([target("snowflake", account="a")], tmp_path)
    assert "is on snowflake" in str(refused.value)
    assert "DuckDB files and Postgres databases" in str(refused.value)


def test_targets_on_one_warehouse_are_accepted_and_on_two_are_an_error(tmp_path: Path) -> None:
    one, same = target(path="shop.duckdb"), target(name="again", path=str(tmp_path / "shop.duckdb"))
    assert str(source_of([one, same], tmp_path)) == f"the DuckDB file {tmp_path / 'shop.duckdb'}"
    with pytest.raises(DbtUsageError, match=r"several warehouses.*\n.*one by one"):
        source_of([one, target(path="other.duckdb")], tmp_path)
