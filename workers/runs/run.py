"""A run as one worker process knows it, read from the ledger."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import msgspec

from workers.app import settings
from workers.contract.environment import CALLERS, Withheld, allowed, withheld_by
from workers.contract.errors import DbtError
from workers.contract.log import log
from workers.contract.messages import RunRequest
from workers.contract.process_attributes import decode_process_attributes
from workers.engine.caller.invocation import dbt_environment
from workers.engine.interface import RunFacts, RunSpec
from workers.runs import env_file
from workers.runs.local_paths import paths_here


class Run(msgspec.Struct, kw_only=True):
    """A run.

    Attributes:
        spec: the request, as the engine needs it on this machine.
        facts: what its plan found; None before it is planned.
        lock: the warehouse that one process at a time may open (`contract.keys.warehouse_of_files`), or None.
        whole: whether it is executed as one command.
        checked: whether this worker is known to have its project.
    """

    request: RunRequest
    spec: RunSpec
    facts: RunFacts | None = None
    lock: str | None = None
    whole: bool = False
    checked: bool = False

    @property
    def planned(self) -> RunFacts:
        """What its plan found.

        Raises:
            DbtError: it was not planned.
        """
        if self.facts is None:
            raise DbtError(f"run {self.request.run_id} was not planned")
        return self.facts

    def store(self, stored: Mapping[str, str | int | float]) -> None:
        """Take in fields that were written to the ledger, as they would be read back."""
        self.facts = _facts_in(stored, self.facts)
        if "lock" in stored:
            self.lock = str(stored["lock"]) or None


def read_run(request: RunRequest, stored: Mapping[str, str]) -> Run:
    """A run from its request and its fields in the ledger.

    Raises:
        DbtUsageError: the caller's environment file is gone, or does not belong to this worker's stack.
    """
    spec = spec_of(
        request,
        invocation_id=stored.get("invocation_id", ""),
        started_at=float(stored.get("started_at", 0.0)),
    )
    return Run(
        request=request, spec=spec, facts=_facts_in(stored), lock=stored.get("lock") or None,
        whole=stored.get("whole") == "1",
    )  # fmt: skip


def _facts_in(stored: Mapping[str, str | int | float], known: RunFacts | None = None) -> RunFacts | None:
    """What the plan found, with the moment at which the nodes began; `known` is what is not `stored`."""
    facts = msgspec.json.decode(str(stored["facts"]), type=RunFacts) if "facts" in stored else known
    if facts is not None and "began" in stored:
        facts = msgspec.structs.replace(facts, began=float(stored["began"]))
    return facts


def spec_of(request: RunRequest, *, invocation_id: str, started_at: float) -> RunSpec:
    """A request as the engine needs it on this machine.

    Args:
        started_at: seconds since the epoch, UTC.

    Raises:
        DbtUsageError: the caller's environment file is gone, or does not belong to this worker's stack.
    """
    withheld = Withheld()
    if request.env_file:
        env = env_file.read(request.env_file, settings)
    else:
        given = allowed(request.env, settings.env_deny)  # anything that can write to Redis can send a request
        left_out = {name for name in request.env.keys() - given.keys() if not name.startswith(CALLERS)}
        if left_out:
            log("values of the caller's environment are left out", level=logging.WARNING, run=request.run_id,
                names=sorted(left_out), reason="DBT_RELAY_ENV_DENY")  # fmt: skip
        env = {**os.environ, **given}
        withheld = withheld_by(request.env, left_out)
    paths = paths_here(request, env, settings.project_dir)
    return RunSpec(
        run_id=request.run_id, args=paths.args, cwd=paths.cwd, project_dir=paths.project_dir,
        env=dbt_environment(paths.env), invocation_id=invocation_id, started_at=started_at,
        debug=request.debug, file_log=request.file_log, required_models=request.required_models,
        surroundings=decode_process_attributes(env), withheld=withheld,
    )  # fmt: skip
