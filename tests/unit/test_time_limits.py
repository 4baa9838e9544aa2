"""Time limits of nodes: which limit counts, and the error text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from workers.contract.errors import DbtTimeoutError, DbtUsageError, ErrorInfo, exception_of
from workers.contract.errors.error_codes import ERROR_CODES
from workers.contract.messages import Limits
from workers.engine.interface import OwnLimits
from workers.engine.project.time_limits import own_limits
from workers.supervision.time_limits import NodeLimits, limits_of

RUN = Limits(soft_time_limit=60, time_limit=90)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (None, NodeLimits(60, 90)),
        (OwnLimits(time_limit=600), NodeLimits(60, 600)),
        (OwnLimits(soft_time_limit=0, time_limit=0), NodeLimits(0, 0)),
        (OwnLimits(soft_time_limit=5), NodeLimits(5, 90)),
    ],
)
def test_a_nodes_own_limits_go_before_the_runs(own: OwnLimits | None, expected: NodeLimits) -> None:
    assert limits_of(RUN, own) == expected


@pytest.mark.parametrize(
    ("limits", "first"), [((0, 0), 0), ((5, 0), 5), ((0, 9), 9), ((5, 9), 5), ((9, 5), 5)]
)
def test_a_hard_limit_alone_begins_like_a_soft_one(limits: tuple[float, float], first: float) -> None:
    assert NodeLimits(*limits).first == first


def test_what_is_said_names_limit_and_time_and_what_to_set() -> None:
    soft, hard = RUN_LIMITS.passed(61.26), RUN_LIMITS.passed(91)
    assert soft.text == "its soft time limit of 60 s has passed: it ran for 61.3 s"
    assert hard.text == "its time limit of 90 s has passed: it ran for 91.0 s"
    error = soft.error("model.p.a")
    assert isinstance(exception_of(error), DbtTimeoutError)
    assert (error.code, error.node, error.retryable) == ("time_limit", "model.p.a", False)
    assert not ERROR_CODES[error.code].retryable
    assert error.message == f"model.p.a: {soft.text}"
    assert "soft_time_limit" in error.suggested_fix
    assert "DBT_RELAY_NODE_SOFT_TIME_LIMIT" in error.suggested_fix
    assert "DBT_RELAY_NODE_TIME_LIMIT" in hard.error("model.p.a").suggested_fix


def test_dbts_text_and_place_stay() -> None:
    of_dbt = ErrorInfo(
        code="query_canceled", category="cancelled", error_class="DbtCancelledError", message="interrupted",
        detail="INTERRUPT Error", file="models/a.sql", line=3,
    )  # fmt: skip
    error = RUN_LIMITS.passed(61).error("model.p.a", of_dbt)
    assert (error.code, error.detail, error.file, error.line) == (
        "time_limit", "INTERRUPT Error", "models/a.sql", 3,
    )  # fmt: skip


RUN_LIMITS = limits_of(RUN, None)


def node(meta: Any, *, inside: bool = True) -> Any:
    of_config = SimpleNamespace(meta=meta) if inside else SimpleNamespace()
    return SimpleNamespace(
        config=of_config,
        meta={} if inside else meta,
        unique_id="model.p.a",
        original_file_path="models/a.sql",
    )


def test_a_project_says_limits_in_meta() -> None:
    assert own_limits(node({})) is None
    assert own_limits(node({"owner": "me"})) is None
    assert own_limits(node({"dbt_relay": {"time_limit": 600}})) == OwnLimits(time_limit=600)
    assert own_limits(node({"dbt_relay": {"soft_time_limit": "1.5"}})) == OwnLimits(soft_time_limit=1.5)
    assert own_limits(node({"dbt_relay": {"time_limit": 0}}, inside=False)) == OwnLimits(time_limit=0)


@pytest.mark.parametrize("meta", [600, {"time_limit": "an hour"}, {"time_limit": -1}, {"timelimit": 600}])
def test_what_is_no_limit_is_refused_with_its_place(meta: Any) -> None:
    with pytest.raises(
        DbtUsageError, match=r"model\.p\.a \(models/a\.sql\): its meta dbt_relay is not"
    ) as it:
        own_limits(node({"dbt_relay": meta}))
    assert "soft_time_limit: 540, time_limit: 600" in str(it.value)
