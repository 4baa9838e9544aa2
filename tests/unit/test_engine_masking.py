"""Which values of a profile are credentials, and how connection errors are masked."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from dbt.adapters.contracts.connection import Connection, ConnectionState
from dbt.adapters.duckdb.credentials import DuckDBCredentials
from dbt.adapters.exceptions import FailedToConnectError
from dbt.adapters.postgres.connections import PostgresCredentials

from workers.engine.output.masking import mask_connection_errors, mask_while_opening, profile_secrets


def postgres(**changed: Any) -> PostgresCredentials:
    plain = {
        "host": "db", "port": 5432, "user": "me", "password": "hunter22", "dbname": "shop", "schema": "analytics",
        "sslkey": "/keys/me.key",
    }  # fmt: skip
    data = PostgresCredentials.translate_aliases({**plain, **changed})
    return PostgresCredentials.from_dict(data)


def duckdb(**settings: Any) -> DuckDBCredentials:
    return DuckDBCredentials.from_dict({"path": "shop.duckdb", "schema": "main", **settings})


def test_postgres_password_is_a_secret() -> None:
    assert profile_secrets(postgres()) == ("hunter22",)


@pytest.mark.parametrize("password", ["analytics", "me", "shop", "password", "abc", ""])
def test_password_that_is_short_or_equals_another_setting_is_not_masked(
    password: str,
) -> None:
    assert profile_secrets(postgres(password=password)) == ()


def test_credentials_of_duckdb_are_found_in_lists_mappings_and_paths() -> None:
    credentials = duckdb(
        motherduck_token="token-one",
        secrets=[{"type": "s3", "key_id": "id-two", "secret": "secret-three", "region": "eu-west-1"}],
        attach=[
            {"path": "md:other?motherduck_token=token-four"},
            {"path": "postgres:host=db password=word-five", "alias": "pg"},
            {"path": "enc.duckdb", "options": {"encryption_key": "key-six"}},
        ],
        plugins=[{"module": "gsheet", "config": {"private_key": "key-seven", "key_path": "/keys/file"}}],
        settings={"s3_secret_access_key": "key-eight", "memory_limit": "1GB"},
    )
    newer = {"token-one"} if hasattr(credentials, "motherduck_token") else set()  # dbt-duckdb >= 1.11
    assert set(profile_secrets(credentials)) == newer | {
         "id-two", "secret-three", "token-four", "word-five", "key-six", "key-seven", "key-eight",
    }  # fmt: skip


class Adapter:
    """An adapter whose connections cannot be open_connection."""

    def __init__(self, open_connection: Any) -> None:
        self.connections: Any = type("Manager", (), {"open": staticmethod(open_connection)})()
        mask_connection_errors(self)

    def open(self) -> None:
        state = ConnectionState.INIT
        self.connections.open(Connection(type="postgres", name="x", credentials=postgres(), state=state))


def test_exception_chain_and_lines_logged_during_open_are_masked() -> None:
    logged: list[str] = []
    password = postgres().password

    def open_connection(_: Any) -> None:
        try:
            raise OSError(f"no way to {password}@db")
        except OSError as error:
            logged.append(mask_while_opening(f"retrying: {error}"))
            raise FailedToConnectError(str(error)) from error

    with pytest.raises(FailedToConnectError) as refused:
        Adapter(open_connection).open()
    assert str(refused.value) == "Database Error\n  no way to *****@db"
    assert "hunter22" not in "".join(traceback.format_exception(refused.value))
    assert logged == ["retrying: no way to *****@db"]
    assert mask_while_opening("hunter22") == "hunter22"


def test_error_without_credentials_is_unchanged() -> None:
    error = OSError(2, "No such file", "hunter")

    def open_connection(_: Any) -> None:
        raise error

    with pytest.raises(OSError, match="hunter") as refused:
        Adapter(open_connection).open()
    assert refused.value is error
    assert error.args == (2, "No such file")
