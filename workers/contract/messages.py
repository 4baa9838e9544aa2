"""What a producer submits, validated on both sides.

A message of another version, or with a value of the wrong type or size, is refused with a reason
(`errors.InvalidMessageError`). A field that this release does not know is ignored: producers and workers are
upgraded one after the other. A release that adds a field which older workers must not ignore raises `VERSION`.
Fields at their default are not sent, so that workers of releases without them take the request.
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
"""Commands that become one task per node."""

OTHER_COMMANDS = frozenset(
    {"clean", "clone", "compile", "debug", "deps", "docs", "init", "list", "ls", "parse", "retry",
     "run-operation", "show", "source"}
)  # fmt: skip
"""Commands that run whole, in one task."""

Text = Annotated[str, msgspec.Meta(max_length=4096)]
Argument = Annotated[str, msgspec.Meta(max_length=1024 * 1024)]
EnvName = Annotated[str, msgspec.Meta(max_length=4096, pattern=r"^[^=\x00]+\Z")]
EnvValue = Annotated[str, msgspec.Meta(max_length=1024 * 1024, pattern=r"^[^\x00]*\Z")]
"""What a process can have in its environment (environ(7))."""

RunId = Annotated[str, msgspec.Meta(pattern=RUN_ID_PATTERN)]
StepId = Annotated[str, msgspec.Meta(pattern=STEP_ID_PATTERN, max_length=1024)]


class RetryPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """How often and how soon a step that failed for a passing reason is tried again.

    Attributes:
        max_attempts: executions of a step in all, the first included.
        base_delay: seconds before the second attempt.
        max_delay: seconds that no wait exceeds.
        backoff_factor: by what each further wait grows.
        jitter: whether Celery draws each wait at random between 0 and the computed one.
    """

    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    base_delay: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0
    max_delay: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 60.0
    backoff_factor: Annotated[float, msgspec.Meta(ge=1, le=100)] = 2.0
    jitter: bool = True


Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Limits(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How long things may take, in seconds; 0 is without a limit.

    A node's limits are of one execution, like Celery's of a task; a node's own (``meta: {dbt_relay:
    {time_limit: 600}}``) go before the run's.

    Attributes:
        soft_time_limit: then the node's queries are cancelled, and it fails as dbt lets it fail.
        time_limit: a second after it the process that executes the node is killed, whatever it does.
        deadline: of the run, from its submission: then it is cancelled.
    """

    soft_time_limit: Seconds = 0.0
    time_limit: Seconds = 0.0
    deadline: Seconds = 0.0


class RunRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One dbt command, as its caller would have given it to dbt.

    Attributes:
        args: dbt's own arguments, ``["run", "--select", "x"]``.
        command: dbt's command, ``docs generate``, told apart from global flags and option values by the
            producer, which knows dbt's options; empty: the first argument.
        cwd: absolute path of the caller's working directory; relative paths resolve against it.
        project_dir: absolute path of the project, where the caller's dbt would find it.
        env: environment values that the caller contributes to the worker's own.
        env_file: a JSON file that holds the caller's whole environment, readable by its user alone
            (the embedded stack: values never pass through Redis), or None.
        return_artifacts: whether the caller cannot see the worker's files and wants run results
            and manifest through Redis.
        place: of the target folder (`place.folder_identity`), where there is one: a worker that leaves its files
            in the same returns none.
        required_models: model names that the project must have, or the run is refused with the
            nearest names before any node runs (`DbtRunner.run_model`).
        retry_of: the run whose failed and skipped nodes this one runs again; `command` is ``retry``.
        priority: 0 goes first, 9 last, as Celery counts on Redis; 0 to 2, 3 to 5, 6 to 8 and 9 are equal.
        limits: how long its nodes and the run itself may take.
        debug: whether dbt events below console level are published too.
        file_log: whether the caller writes dbt's log file, and so reads its records (`names.Keys.log`).
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
        """The first word of the command: ``docs`` of ``docs generate``."""
        return (self.command or self.args[0]).partition(" ")[0]


class StepTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of every Celery task: a hint that a step of a run may be ready. The ledger decides."""

    run_id: RunId
    step: StepId
    version: Literal[1] = 1


_request_decoder = msgspec.json.Decoder(RunRequest)


def encode_request(request: RunRequest) -> bytes:
    """JSON of a request.

    Raises:
        DbtUsageError: a text in it is not UTF-8, as a path or an environment value may be.
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
    message = f"What is sent to a worker must be UTF-8. This is not: {', '.join(named)}."
    return DbtUsageError(
        message,
        ErrorInfo(
            code="not_utf8", category=Category.USAGE.value, error_class="DbtUsageError", message=message,
            suggested_fix="Rename the file or folder, or give the value in UTF-8.",
        ),
    )  # fmt: skip


def decode_request(raw: bytes | str) -> RunRequest:
    """A request from its JSON.

    Raises:
        InvalidMessageError: not JSON, of another version, too large, or not a `RunRequest`.
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
        f"{reason} (message version {version!r}; this side speaks version {VERSION}: "
        "install the same dbt-relay release on producers and workers)"
    )


def step_task(run_id: object, step: object, version: object = 1) -> StepTask:
    """The validated body of a Celery task.

    Raises:
        InvalidMessageError: a run id, step or version that no producer of this release sends.
    """
    try:
        return msgspec.convert({"run_id": run_id, "step": step, "version": version}, StepTask)
    except msgspec.ValidationError as error:
        raise InvalidMessageError(f"not a valid task message: {error}") from error
