"""dbt-relay does not change data that look like a credential or equal one, as dbt does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.conftest import duckdb_pair_in
from tests.parity.harness import Dbt, Pair, edit, play, write
from tests.support.worker_pool import WorkerPools

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.timeout(900)]

SECRET = "s3cr3t-v4lue"

HTTP_SECRETS = """      schema: main
      secrets:
        - {type: http, name: one, scope: "https://one.invalid", bearer_token: main}
        - {type: http, name: two, scope: "https://two.invalid", bearer_token: stg_orders}
"""
"""Credentials that equal the names of a schema and of a model."""

CREDENTIALS = f"""
{{{{ config(meta={{'token': 'password=abc https://me:pw@host/x'}}) }}}}
select 'x' as token, 'password=abc' as dsn, 'https://me:pw@host/x' as url, '{SECRET}' as leaked
"""

MACROS = """
{% macro keep(results) %}
    {% for result in results %}
        insert into {{ target.schema }}.kept values (
            '{{ result.node.unique_id }}', '{{ result.status }}',
            '{{ (result.message or '') | replace("'", "''") }}',
            '{{ (result.node.compiled_code or '') | replace("'", "''") }}');
    {% endfor %}
{% endmacro %}
{% macro say(what) %}
    {{ log('token: abc, password=xyz, https://me:pw@host, ' ~ what, info=true) }}
    {{ print("api_key = 'abc' " ~ what) }}
    {{ exceptions.warn('secret: ' ~ what) }}
    {{ exceptions.raise_compiler_error('password=' ~ what) }}
{% endmacro %}
"""


@pytest.fixture
def pair(tmp_path: Path, worker_pool: WorkerPools) -> Iterator[Pair]:
    pool = worker_pool(1, env={"DBT_ENV_SECRET_VALUE": SECRET})
    yield duckdb_pair_in(tmp_path, "small", pool.broker, DBT_ENV_SECRET_VALUE=SECRET)
    pool.stop()


def test_credentials_in_data_are_kept(pair: Pair) -> None:
    play(
        pair,
        "credentials in data",
        edit("profiles.yml", "      schema: main\n", HTTP_SECRETS),
        edit(
            "dbt_project.yml",
            "on-run-end:\n",
            "on-run-end:\n"
            '  - "create or replace table {{ target.schema }}.kept (node text, status text, message text, code text)"\n'
            '  - "{{ keep(results) }}"\n',
        ),
        write("models/credentials.sql", CREDENTIALS),
        write(
            "models/joined.sql",
            "select a.token from {{ ref('credentials') }} a join {{ ref('credentials') }} b on a.token = b.token",
        ),
        write(
            "models/refused.sql",
            f"{{{{ config(materialized='table') }}}} select 'password=abc {SECRET}'::int as token",
        ),
        write("macros/masking.sql", MACROS),
        Dbt("build", exit_code=1),
        Dbt("show --select credentials --output json"),
        Dbt(["show", "--inline", f"select 'abc' as token, '{SECRET}' as x"]),
        Dbt("compile --select joined credentials"),
        Dbt("compile --select joined --output json"),
        Dbt("ls --select credentials --output json"),
        Dbt(f"run-operation say --args '{{what: {SECRET}}}'", exit_code=1),
    )
