"""A small version of the generated large project: packages, dispatched macros, generic tests, many schemas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parity.harness import Dbt, Pair, play
from tests.support.big_project import PART, write_big_project

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.timeout(600)]


def _write_part(_: str, folder: Path) -> Path:
    return write_big_project(folder, PART)


def test_part_of_the_big_project(duckdb_pair: Callable[..., Pair]) -> None:
    """The second command uses the parsed project of the first, in any worker process."""
    play(
        duckdb_pair("big", make=_write_part),
        "a part of a big project",
        Dbt("build --select +m_0060 +m_0043"),
        Dbt(
            "build --select package:kit_audit tag:area_04 --exclude config.materialized:incremental",
            exit_code=1,
        ),
    )
