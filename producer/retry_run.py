"""Running again what failed and was skipped in an earlier run: ``dbt-relay retry RUN``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec

from producer.client import no_such_run
from producer.dbt_cli.options import Table
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
"""What dbt can retry (dbt.task.retry.TASK_DICT); ``generate`` is ``docs generate``."""

_WHERE = frozenset({"log_path", "profiles_dir", "project_dir", "target_path"})
"""Options that ``dbt retry`` takes from its own command line: a run knows where it ran."""


def named_run(words: Sequence[str], table: Table | None = None) -> tuple[str, list[str]] | None:
    """The run that a ``retry`` command line names, and the line without it; None for any other line.

    Raises:
        DbtUsageError: words that dbt would refuse.
    """
    line = checked_words(words)
    levels = read_words(line, table)
    last = levels[-1]
    if last.command.words != "retry" or len(last.positional) != 1:
        return None
    options = {place for level in levels for one in level.given for place in range(one.start, one.end)}
    run = last.positional[0]
    place = max(at for at, word in enumerate(line) if word == run and at not in options)
    return run, [word for at, word in enumerate(line) if at != place]


def retry_request(store: RunStore, run_id: str, args: Sequence[str] = ("retry",)) -> RunRequest:
    """The request to run again what failed and was skipped in a run, as ``dbt retry`` would.

    Args:
        args: the retry's own command line; relative paths start where the run was started.

    Raises:
        RelayError: there is no such run (any more).
        DbtUsageError: it is still going, or is of a kind that cannot be retried.
    """
    state, request, last = store.fact(run_id, "state"), store.request(run_id), store.final(run_id)
    if state is None or request is None:
        raise no_such_run(run_id)
    if state not in RUN_TERMINAL or last is None:
        raise usage_error(
            "still_running", f"Run {run_id} is still going.", f"Follow it: dbt-relay watch {run_id}"
        )
    _check_retryable(request, last)
    return msgspec.structs.replace(
        request, run_id=new_run_id(), args=_words(request, args), command="retry", retry_of=run_id,
        required_models=(), submitted_at=time.time(),
        env={name: value for name, value in request.env.items() if name != FILES},  # they may be mended by now
    )  # fmt: skip


def with_environment(store: RunStore, request: RunRequest, environ: Mapping[str, str]) -> RunRequest:
    """The request to retry a run, with the values that its environment contributed: Redis does not keep them.

    Args:
        environ: where the values are taken from.

    Raises:
        DbtUsageError: they were in a file of the embedded stack, which is gone; or `environ` lacks some.
    """
    if request.env_file is not None:
        run_id = request.retry_of
        raise usage_error(
            "environment_not_kept",
            f"Run {run_id} had its environment from its caller, on the embedded stack, which keeps none.",
            f"Use DbtRunner.retry, or `dbt-relay retry {run_id}`: they bring their own.",
        )
    names = value_of((store.fact(request.retry_of or "", ENV_NAMES) or "[]").encode(), list[str]) or []
    missing = [name for name in names if name not in environ]
    if missing:
        raise usage_error(
            "environment_not_kept",
            f"Run {request.retry_of} had values of its caller's environment, which are not kept, and this "
            f"environment lacks {', '.join(missing)}.",
            "Set them and retry again, or submit the command itself again.",
        )
    # a run that a worker of an earlier release ended has its values still
    return msgspec.structs.replace(request, env={**request.env, **{name: environ[name] for name in names}})


def _check_retryable(request: RunRequest, last: FinalRecord) -> None:
    shown = f"dbt {' '.join(request.args)}"
    if last.run_results is None:
        why = "dbt gave it up before any node ran" if last.return_code else "it runs no nodes"
        raise usage_error(
            "nothing_to_retry",
            f"Run {request.run_id} (`{shown}`) left no run results, for {why}.",
            "Submit the command itself again.",
        )
    command = str(last.run_results.get("args", {}).get("which", ""))
    if command not in RETRYABLE:
        raise usage_error(
            "not_retryable",
            f"Run {request.run_id} was `{shown}`, which dbt cannot retry.",
            "Submit the command itself again.",
        )


def _words(request: RunRequest, args: Sequence[str]) -> tuple[str, ...]:
    named = {one.option.name for one in _given(args)}
    kept = [
        word
        for one in _given(request.args)
        if one.option.name in _WHERE and one.option.name not in named
        for word in request.args[one.start : one.end]
    ]
    return (*args, *kept)


def _given(words: Sequence[str]) -> list[Given]:
    return [one for level in read_words(checked_words(words)) for one in level.given]
