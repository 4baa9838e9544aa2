"""Fifteen trials of `make chaos` on a small project, with every fault and both kinds of warehouse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.faults import FAULTS, draw
from tests.chaos.report import format_verdict
from tests.chaos.series import Series
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer

SCENARIOS = ("chaos-duckdb", "chaos-postgres")
SEEDS = range(2, 17)
LEASE, LONGEST = 2.0, 2.0


@pytest.fixture(scope="module")
def series(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, postgres: PostgresServer
) -> Iterator[Series]:
    """A series on its own Redis. The fixture `redis_server` skips the test where there is no server program."""
    folder = tmp_path_factory.mktemp("chaos")
    with Series(folder, postgres, lease=LEASE, reap=0.3, longest=LONGEST, patience=150) as series:
        yield series


def test_every_fault_is_drawn() -> None:
    drawn = {each.name for seed in SEEDS for each in draw(seed, lease=LEASE, longest=LONGEST)}
    assert drawn == FAULTS.keys()


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
def test_disturbed_run_ends_like_an_undisturbed_one(series: Series, seed: int) -> None:
    verdict = series.run_trial(seed, SCENARIOS[seed % len(SCENARIOS)])
    print(format_verdict(verdict))
    assert not verdict.differences, format_verdict(verdict)
