"""The result of a run, made of its final record and its console lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.contract.errors import Category, ErrorInfo, RelayError
from workers.contract.events import LINE, MISSING, STDERR, Event
from workers.contract.keys import submitted_at
from workers.contract.messages import RunRequest
from workers.contract.redis_values import number_of
from workers.contract.results import DbtResult
from workers.contract.run_store import RESULT_TTL, FinalRecord

Record = tuple[RunRequest, FinalRecord, dict[str, str]]
"""What Redis keeps of a run that has ended: its request, its final record, and all fields of its hash."""


@dataclass
class ConsoleLines:
    """Console lines collected from the events of a run.

    Attributes:
        stdout: lines of stdout, without newlines.
        stderr: lines of stderr, without newlines.
        warnings: one for each gap of events that Redis no longer keeps.
    """

    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Collect the next event."""
        if event.kind == LINE:
            (self.stderr if event.stream == STDERR else self.stdout).append(event.text)
        elif event.state == MISSING:
            self.warnings.append(event.text)


def result_of(
    request: RunRequest, last: FinalRecord, facts: Mapping[str, str], console: ConsoleLines
) -> DbtResult:
    """Build the result that callers receive.

    Args:
        last: the run's final record.
        facts: the fields of the run's hash in Redis.
        console: its lines and warnings.
    """
    warnings = (*last.warnings, *console.warnings)
    failure = [] if last.error is None or last.return_code == 0 else [last.error.message]
    ended, created = number_of(facts.get("ended")), number_of(facts.get("created"))
    return DbtResult(
        success=last.return_code == 0,
        stdout="".join(f"{line}\n" for line in console.stdout),
        stderr="".join(f"{line}\n" for line in console.stderr) + "\n".join([*failure, *warnings]),
        execution_time=max(0.0, ended - created),
        return_code=last.return_code,
        command=["dbt", *request.args],
        run_id=request.run_id,
        nodes=tuple(last.nodes),
        error=last.error if last.return_code else None,
        run_results=last.run_results,
        attempts=tuple(last.attempts),
        warnings=warnings,
    )


def no_such_run(run_id: str) -> RelayError:
    """Build the error for a run id that Redis does not know, or no longer keeps."""
    code, message = "no_such_run", f"there is no run {run_id} (results are kept for a day by default)"
    began = submitted_at(run_id)
    if began and time.time() - began > RESULT_TTL:
        day = time.strftime("%Y-%m-%d %H:%M", time.gmtime(began))
        code = "run_expired"
        message = f"run {run_id} of {day} UTC is no longer kept (DBT_RELAY_RESULT_TTL, a day by default)"
    return RelayError(
        message,
        ErrorInfo(
            code=code, category=Category.USAGE.value, error_class="RelayError", message=message,
            suggested_fix="`dbt-relay runs` lists the runs that are known.",
        ),
    )  # fmt: skip
