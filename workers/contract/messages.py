"""The messages that producers send: the request of a run and the body of a Celery task. Both sides validate them.

A message of another version, or with a value of the wrong type or size, is refused with a reason
(`errors.InvalidMessageError`). Unknown fields are ignored, because producers and workers are upgraded one after the
other. A release that adds a field which older workers must not ignore increments `VERSION`. Fields with their default
value are not sent, so that older workers accept the request.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from workers.contract.credentials import escaped
from workers.contract.errors import Category, DbtUsageError, ErrorInfo, InvalidMessageError
from workers.contract.keys import RUN_ID_PATTERN, STEP_ID_PATTERN

VERSION = 1
MAX_REQUEST_BYTES = 4 * 1024 * 1024

NODE_COMMANDS = frozenset({"build", "run", "seed", "snapshot", "test"})
"""Commands that are executed as one task per node."""

Text = Annotated[str, msgspec.Meta(max_length=4096)]
Argument = Annotated[str, msgspec.Meta(max_length=1024 * 1024)]
EnvName = Annotated[str, msgspec.Meta(max_length=4096, pattern=r"^[^=\x00]+\Z")]
EnvValue = Annotated[str, msgspec.Meta(max_length=1024 * 1024, pattern=r"^[^\x00]*\Z")]
"""Names and values that the environment of a process can contain (environ(7))."""

RunId = Annotated[str, msgspec.Meta(pattern=RUN_ID_PATTERN)]
StepId = Annotated[str, msgspec.Meta(pattern=STEP_ID_PATTERN, max_length=1024)]


class RetryPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """Retries of a step that failed with a retryable error.

    Attributes:
        max_attempts: maximal number of attempts, including the first one.
        base_delay: seconds before the second attempt.
        max_delay: maximal seconds before an attempt.
        backoff_factor: factor by which the delay grows with each attempt.
        jitter: whether each delay is a random number between half of the computed delay and all of it. With Celery's
            ``retry_jitter`` it may be 0.
    """

    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    base_delay: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0
    max_delay: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 60.0
    backoff_factor: Annotated[float, msgspec.Meta(ge=1, le=100)] = 2.0
    jitter: bool = True


Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Limits(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Time limits in seconds; 0 is unlimited.

    The limits of a node apply to one attempt, like Celery's time limits of a task. A node's own limits
    (``meta: {dbt_relay: {time_limit: 600}}``) take precedence over the run's.

    Attributes:
        soft_time_limit: of a node. When it passes, the node's queries are cancelled and dbt lets the node fail.
        time_limit: of a node. One second after it passes, the process that executes the node is killed.
        deadline: of the run, from its submission. When it passes, the run is cancelled.
    """

    soft_time_limit: Seconds = 0.0
    time_limit: Seconds = 0.0
    deadline: Seconds = 0.0


class RunRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The request of a run: one dbt command with its caller's working directory and environment.

    Attributes:
        args: dbt's arguments, ``["run", "--select", "x"]``.
        command: dbt's command, ``docs generate``. The producer finds it among global options and their values. Empty:
            the first argument.
        cwd: absolute path of the caller's working directory. Relative paths start there.
        project_dir: absolute path of the project on the caller's machine.
        env: values of the caller's environment that are added to the worker's own.
        env_file: a JSON file with the caller's whole environment, which only its user can read, or None. The embedded
            stack uses it, so that values are not stored in Redis.
        return_artifacts: whether the worker returns run results and manifest through Redis, for a caller that cannot
            see its files.
        place: identity of the caller's target folder (`folder_identity`), or empty. A worker that writes into this
            folder returns no files.
        required_models: names of models that the project must have. If one is missing, the run is refused with the
            most similar names before any node starts (`DbtRunner.run_model`).
        retry_of: the run whose failed and skipped nodes this run executes again; `command` is ``retry``.
        priority: from 0 (first) to 9 (last), as in Celery with Redis; 0 to 2, 3 to 5, 6 to 8 and 9 are equal.
        limits: time limits of the run and its nodes.
        debug: whether dbt events below console level are published too.
        file_log: whether the caller writes dbt's log file and reads its records (`Keys.log`).
        submitted_at: seconds since the epoch, UTC.
    """

    version: Annotated[int, msgspec.Meta(ge=1)] = VERSION
    run_id: RunId
    args: Annotated[tuple[Argument, ...], msgspec.Meta(min_length=1, max_length=4096)]
    command: Text = ""
    cwd: Text
    project_dir: Text
    env: dict[EnvName, EnvValue] = {}
    env_file: Text | None = None
    retry: RetryPolicy = RetryPolicy()
    return_artifacts: bool = True
    place: Text = ""
    required_models: tuple[Text, ...] = ()
    retry_of: RunId | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = 0
    limits: Limits = Limits()
    debug: bool = False
    file_log: bool = False
    description: Text = ""
    submitted_by: Text = ""
    submitted_at: float = 0.0

    @property
    def first_word(self) -> str:
        """The first word of the command, such as ``docs`` of ``docs generate``."""
        return (self.command or self.args[0]).partition(" ")[0]


class StepTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of every Celery task: a step of a run that may be ready. The ledger decides whether it is executed."""

    run_id: RunId
    step: StepId
    version: Literal[1] = 1


_request_decoder = msgspec.json.Decoder(RunRequest)


def encode_request(request: RunRequest) -> bytes:
    """Encode a request as JSON.

    Raises:
        DbtUsageError: a path, an argument or an environment value is not UTF-8.
    """
    try:
        return msgspec.json.encode(request)
    except UnicodeEncodeError as error:
        raise _not_utf8(request) from error


def _not_utf8(request: RunRequest) -> DbtUsageError:
    given = {
        "the working directory": [request.cwd], "the project's path": [request.project_dir],
        "the arguments": request.args, "the environment values": [*request.env, *request.env.values()],
    }  # fmt: skip
    named = [
        f"{what} ({escaped(text)})"
        for what, texts in given.items()
        for text in texts
        if escaped(text) != text
    ]
    message = f"Everything that is sent to a worker must be UTF-8. This is not: {', '.join(named)}."
    return DbtUsageError(
        message,
        ErrorInfo(
            code="not_utf8", category=Category.USAGE.value, error_class="DbtUsageError", message=message,
            suggested_fix="Rename the file or folder, or give the value in UTF-8.",
        ),
    )  # fmt: skip


def decode_request(raw: bytes | str) -> RunRequest:
    """Decode a request from JSON.

    Raises:
        InvalidMessageError: it is not JSON, not a `RunRequest`, too large, or of another version.
    """
    size = len(raw)
    if size > MAX_REQUEST_BYTES:
        raise InvalidMessageError(f"request of {size} bytes: at most {MAX_REQUEST_BYTES} are accepted")
    try:
        request = _request_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessageError(_with_version(raw, f"not a valid run request: {error}")) from error
    if request.version != VERSION:
        raise InvalidMessageError(_with_version(raw, "run request refused"))
    return request


def _with_version(raw: bytes | str, reason: str) -> str:
    try:
        version = msgspec.json.decode(raw).get("version", VERSION)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
        return reason
    if version == VERSION:
        return reason
    return (
        f"{reason} (message version {version!r}; this side reads version {VERSION}: "
        "install the same dbt-relay release on producers and workers)"
    )


def step_task(run_id: object, step: object, version: object = 1) -> StepTask:
    """Validate the body of a Celery task.

    Raises:
        InvalidMessageError: run id, step or version are not of the format that this release sends.
    """
    try:
        return msgspec.convert({"run_id": run_id, "step": step, "version": version}, StepTask)
    except msgspec.ValidationError as error:
        raise InvalidMessageError(f"not a valid task message: {error}") from error
