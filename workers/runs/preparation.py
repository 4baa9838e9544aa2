"""Finds out, before dbt is called, whether this worker can execute a step: the project is here, the files are free."""

from __future__ import annotations

from workers.contract.errors.classify import Failure, classify
from workers.contract.keys import STEP_CLOSE
from workers.runs.claimed_step import ClaimedStep
from workers.runs.outcome import FileLocked, NotExecutable
from workers.runs.project_check import project_error
from workers.sessions.file_locks import first_locked


def prepare(step: ClaimedStep) -> NotExecutable | FileLocked | None:
    """What keeps this worker from executing the step, or None."""
    if step.claim.skip:  # dbt reports a skipped node without project or warehouse
        return None
    if step.claim.step != STEP_CLOSE:
        error = project_error(step.run, step.runtime.owner)
        if error is not None:
            return NotExecutable(error)
    return _file_locked(step)


def _file_locked(step: ClaimedStep) -> FileLocked | None:
    """A file of the run's warehouse that another program has open.

    dbt would report that with its banner and a traceback for each connection, at each attempt.
    """
    if step.run.lock is None or step.runtime.engine.has_files_open():
        return None
    locked = first_locked(step.run.lock)
    if locked is None:
        return None
    error = classify(
        Failure(message=locked.as_duckdb_says, command=step.run.request.first_word, adapter="duckdb")
    )
    return FileLocked(error, f"{locked.path}: {locked.who} has it open")
