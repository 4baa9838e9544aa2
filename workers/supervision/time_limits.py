"""Time limits of nodes: configuration and error texts. No I/O."""

from __future__ import annotations

import msgspec

from workers.contract.errors import Category, ErrorInfo
from workers.contract.messages import Limits
from workers.engine.interface import OwnLimits

GRACE: float = 1.0
"""Seconds that a node has to react: between the cancellation of its queries and the exception that is raised in it, and
between its hard time limit and the kill of its process."""


class NodeLimits(msgspec.Struct, frozen=True):
    """Time limits of one execution of a node, in seconds; 0 is unlimited."""

    soft: float = 0.0
    hard: float = 0.0

    @property
    def first(self) -> float:
        """The limit at which the node's queries are cancelled: the smaller of both."""
        return min((each for each in (self.soft, self.hard) if each > 0), default=0.0)

    def passed(self, elapsed: float) -> Overrun:
        """Return which limit a node passed that has run for `elapsed` seconds."""
        hard = 0 < self.hard <= elapsed
        return Overrun(self.hard if hard else self.first, elapsed, soft=not hard)


class Overrun(msgspec.Struct, frozen=True):
    """A passed time limit.

    Attributes:
        limit: the limit, seconds.
        elapsed: how long the node ran, seconds.
        soft: whether it is the soft limit.
    """

    limit: float
    elapsed: float
    soft: bool

    @property
    def text(self) -> str:
        """The text of the error."""
        kind = "soft time limit" if self.soft else "time limit"
        return f"its {kind} of {self.limit:.15g} s has passed: it ran for {self.elapsed:.1f} s"

    def error(self, unique_id: str, of_dbt: ErrorInfo | None = None) -> ErrorInfo:
        """Return the classified error.

        Args:
            unique_id: dbt's unique id of the node.
            of_dbt: the error of the cancelled query. Its file, line and detail are kept.
        """
        setting = "soft_time_limit" if self.soft else "time_limit"
        info = ErrorInfo(
            code="time_limit", category=Category.TIMEOUT.value, error_class="DbtTimeoutError",
            message=f"{unique_id}: {self.text}", node=unique_id,
            suggested_fix=(
                f"Make it faster, or raise its limit: `meta: {{dbt_relay: {{{setting}: …}}}}` in its config, or "
                f"DBT_RELAY_NODE_{setting.upper()} for every node; 0 is unlimited."
            ),
        )  # fmt: skip
        if of_dbt is None:
            return info
        return msgspec.structs.replace(info, detail=of_dbt.detail, file=of_dbt.file, line=of_dbt.line)


def limits_of(run: Limits, own: OwnLimits | None) -> NodeLimits:
    """Return the limits of a node: its own limits, or else the run's."""
    soft, hard = run.soft_time_limit, run.time_limit
    if own is not None:
        soft = soft if own.soft_time_limit is None else own.soft_time_limit
        hard = hard if own.time_limit is None else own.time_limit
    return NodeLimits(soft, hard)
