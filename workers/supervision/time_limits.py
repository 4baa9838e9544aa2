"""How long a node may take, and what is said when it took longer. Pure."""

from __future__ import annotations

import msgspec

from workers.contract.errors import Category, ErrorInfo
from workers.contract.messages import Limits
from workers.engine.interface import OwnLimits

GRACE: float = 1.0
"""Seconds between what is asked of a node and what is done to it: between the cancel of its queries and
the exception, and between its time limit and the end of its process."""


class NodeLimits(msgspec.Struct, frozen=True):
    """Limits of one execution of a node, in seconds; 0 is without a limit."""

    soft: float = 0.0
    hard: float = 0.0

    @property
    def first(self) -> float:
        """When its queries are cancelled: a hard limit without a soft one begins like it."""
        return min((each for each in (self.soft, self.hard) if each > 0), default=0.0)

    def passed(self, elapsed: float) -> Overrun:
        """What to say of a node that has run for `elapsed` seconds, longer than it may."""
        hard = 0 < self.hard <= elapsed
        return Overrun(self.hard if hard else self.first, elapsed, soft=not hard)


class Overrun(msgspec.Struct, frozen=True):
    """A node that took longer than it may. Times are seconds."""

    limit: float
    elapsed: float
    soft: bool

    @property
    def text(self) -> str:
        """What happened, for people."""
        kind = "soft time limit" if self.soft else "time limit"
        return f"its {kind} of {self.limit:.15g} s has passed: it ran for {self.elapsed:.1f} s"

    def error(self, unique_id: str, of_dbt: ErrorInfo | None = None) -> ErrorInfo:
        """The classified error. Of dbt's, which is about a cancelled query, the place and the text stay."""
        word = "soft_time_limit" if self.soft else "time_limit"
        info = ErrorInfo(
            code="time_limit", category=Category.TIMEOUT.value, error_class="DbtTimeoutError",
            message=f"{unique_id}: {self.text}", node=unique_id,
            suggested_fix=(
                f"Make it faster, or raise its limit: `meta: {{dbt_relay: {{{word}: …}}}}` in its config, or "
                f"DBT_RELAY_NODE_{word.upper()} for every node; 0 is without a limit."
            ),
        )  # fmt: skip
        if of_dbt is None:
            return info
        return msgspec.structs.replace(info, detail=of_dbt.detail, file=of_dbt.file, line=of_dbt.line)


def limits_of(run: Limits, own: OwnLimits | None) -> NodeLimits:
    """What counts for a node: its own where it has some, else the run's."""
    soft, hard = run.soft_time_limit, run.time_limit
    if own is not None:
        soft = soft if own.soft_time_limit is None else own.soft_time_limit
        hard = hard if own.time_limit is None else own.time_limit
    return NodeLimits(soft, hard)
