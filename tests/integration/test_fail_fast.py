"""--fail-fast: what plain dbt has under way when a node fails has its chance here, too, on one process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer
from tests.support.runs import runner
from tests.support.worker_pool import WorkerPool

WAIT = "{{ wait(SECONDS) }} select 1 as a"
MODELS = {
    # at once: `failing` takes a second, `quick` less, `slow` more; none of them has a child
    "at_once/failing.sql": WAIT.replace("SECONDS", "1") + " from nowhere",
    "at_once/quick.sql": "select 1 as a",
    "at_once/slow.sql": WAIT.replace("SECONDS", "60"),
    # later: the failure is noticed when `slower` is done, because its child is the next to begin
    "later/fails.sql": "select 1 as a from nowhere",
    "later/slower.sql": WAIT.replace("SECONDS", "2"),
    "later/zchild.sql": "select * from {{ ref('slower') }}",
}


@pytest.fixture
def project(slow_project: Path) -> Path:
    """The slow project's warehouse and waiting, with other models."""
    shutil.rmtree(slow_project / "models")
    macro = (slow_project / "macros" / "wait.sql").read_text()
    macro = macro.replace("wait()", "wait(seconds)").replace("var('seconds')", "seconds")
    (slow_project / "macros" / "wait.sql").write_text(macro.replace("this.identifier", "seconds"))
    for name, text in MODELS.items():
        path = slow_project / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{{ config(materialized='table') }} " + text)
    return slow_project


@pytest.mark.slow
def test_siblings_of_a_failure_end_as_in_plain_dbt(
    project: Path, worker_pool: Callable[..., WorkerPool], redis_server: RedisServer
) -> None:
    worker_pool(n=1)
    dbt = runner(redis_server, project)
    at_once = dbt.execute_command(["run", "--fail-fast", "--select", "at_once"], stream_output=False)
    assert {node.name: node.status for node in at_once.nodes} == {
        "failing": "error", "quick": "success", "slow": "skipped",
    }, at_once.stdout  # fmt: skip
    assert at_once.execution_time < 40
    later = dbt.execute_command(["run", "--fail-fast", "--select", "later"], stream_output=False)
    assert {node.name: node.status for node in later.nodes} == {
        "fails": "error", "slower": "success", "zchild": "skipped",
    }, later.stdout  # fmt: skip
    assert (at_once.return_code, later.return_code) == (1, 1)
