"""Command lines in lists of runs."""

from __future__ import annotations

import pytest

from producer.dbt_cli.vars import shown_args


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (["run", "--vars", "{year: 2026}"], ["run", "--vars", "{year: 2026}"]),
        (["run", "--vars", "{year: 2026, api_token: abc}"], ["run", "--vars", "{api_token: '*****', year: 2026}"]),
        (["run", "--vars={db: {password: x, host: h}}"], ["run", "--vars={db: {host: h, password: '*****'}}"]),
        (["run", "--vars", "{tokens: {a: 1}, l: [{secret: s}]}"],
         ["run", "--vars", "{l: [{secret: '*****'}], tokens: '*****'}"]),
        (["run", "--vars", "{password: [x"], ["run", "--vars", "*****"]),
        (["run", "--select", "token_model"], ["run", "--select", "token_model"]),
        (["run", "--vars", "{note: 'no secret here'}"], ["run", "--vars", "{note: 'no secret here'}"]),
    ],
)  # fmt: skip
def test_secrets_in_vars_are_masked(args: list[str], shown: list[str]) -> None:
    assert shown_args(args) == shown
