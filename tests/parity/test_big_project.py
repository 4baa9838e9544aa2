"""A part of a generated project with the shape of a large one: packages, dispatched macros, generic tests, many schemas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parity.harness import Dbt, Pair, play
from tests.support.big_project import PART, write_big_project

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.timeout(600)]


def _written(_: str, folder: Path) -> Path:
    return write_big_project(folder, PART)


def test_a_part_of_a_big_project_is_built_as_plain_dbt_builds_it(duckdb_pair: Callable[..., Pair]) -> None:
    """The second command uses the parsed project of the first, in either worker process."""
    play(
        duckdb_pair("big", make=_written),
        "a part of a big project",
        Dbt("build --select +m_0060 +m_0043"),
        Dbt(
            "build --select package:kit_audit tag:area_04 --exclude config.materialized:incremental",
            exit_code=1,
        ),
    )
