"""The request that runs the failed and skipped nodes of an earlier run again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec

from producer.client.results import no_such_run
from producer.dbt_cli.words import Given, checked_words, read_words
from producer.usage_errors import usage_error
from workers.contract.keys import new_run_id
from workers.contract.messages import RunRequest
from workers.contract.project_files import FILES
from workers.contract.redis_values import value_of
from workers.contract.results import RUN_TERMINAL
from workers.contract.run_store import ENV_NAMES, FinalRecord, RunStore

RETRYABLE = frozenset(
    {"build", "clone", "compile", "generate", "run", "run-operation", "seed", "snapshot", "test"}
)
"""Commands that dbt can retry (dbt.task.retry.TASK_DICT); ``generate`` is ``docs generate``."""

_LOCATIONS = frozenset({"log_path", "profiles_dir", "project_dir", "target_path"})
"""Options that ``dbt retry`` reads from its own command line. A retry repeats those of the earlier run."""


def retry_request(store: RunStore, run_id: str, args: Sequence[str] = ("retry",)) -> RunRequest:
    """Build the request to run the failed and skipped nodes of a run again, as ``dbt retry`` would.

    Args:
        args: dbt's command line of the retry; relative paths start at the earlier run's working directory.

    Raises:
        RelayError: Redis does not know the run, or no longer keeps it.
        DbtUsageError: the run is active, or of a kind that cannot be retried.
    """
    state, request, last = store.fact(run_id, "state"), store.request(run_id), store.final(run_id)
    if state is None or request is None:
        raise no_such_run(run_id)
    if state not in RUN_TERMINAL or last is None:
        raise usage_error(
            "still_running", f"Run {run_id} is still active.", f"Follow it: dbt-relay watch {run_id}"
        )
    _check_retryable(request, last)
    return msgspec.structs.replace(
        request, run_id=new_run_id(), args=_arguments(request, args), command="retry", retry_of=run_id,
        required_models=(), submitted_at=time.time(),
        # the project may have been corrected since
        env={name: value for name, value in request.env.items() if name != FILES},
    )  # fmt: skip


def with_environment(store: RunStore, request: RunRequest, environ: Mapping[str, str]) -> RunRequest:
    """Add the environment values that the earlier run used. Redis keeps only their names.

    Args:
        request: of `retry_request`.
        environ: the source of the values.

    Raises:
        DbtUsageError: the earlier run read its environment from a file of the embedded stack, which no longer
            exists; or `environ` lacks some of the names.
    """
    if request.env_file is not None:
        run_id = request.retry_of
        raise usage_error(
            "environment_not_kept",
            f"The environment of run {run_id} was in a file of the embedded stack, which keeps none.",
            f"Use DbtRunner.retry, or `dbt-relay retry {run_id}`: they send their own environment.",
        )
    names = value_of((store.fact(request.retry_of or "", ENV_NAMES) or "[]").encode(), list[str]) or []
    missing = [name for name in names if name not in environ]
    if missing:
        raise usage_error(
            "environment_not_kept",
            f"Run {request.retry_of} used values of its caller's environment. Redis does not keep them, and this "
            f"environment lacks {', '.join(missing)}.",
            "Set them and retry again, or submit the command itself again.",
        )
    # a worker of an earlier release leaves the values in the request
    return msgspec.structs.replace(request, env={**request.env, **{name: environ[name] for name in names}})


def _check_retryable(request: RunRequest, last: FinalRecord) -> None:
    shown = f"dbt {' '.join(request.args)}"
    if last.run_results is None:
        why = "dbt stopped before it ran any node" if last.return_code else "it runs no nodes"
        raise usage_error(
            "nothing_to_retry",
            f"Run {request.run_id} (`{shown}`) left no run results: {why}.",
            "Submit the command itself again.",
        )
    command = str(last.run_results.get("args", {}).get("which", ""))
    if command not in RETRYABLE:
        raise usage_error(
            "not_retryable",
            f"Run {request.run_id} was `{shown}`, which dbt cannot retry.",
            "Submit the command itself again.",
        )


def _arguments(request: RunRequest, args: Sequence[str]) -> tuple[str, ...]:
    """Add the earlier run's location options to `args`, except those that `args` has itself."""
    own = {one.option.name for one in _options(args)}
    repeated = [
        word
        for one in _options(request.args)
        if one.option.name in _LOCATIONS and one.option.name not in own
        for word in request.args[one.start : one.end]
    ]
    return (*args, *repeated)


def _options(args: Sequence[str]) -> list[Given]:
    return [one for level in read_words(checked_words(args)) for one in level.given]
