"""dbt-relay's settings: environment variables with the prefix ``DBT_RELAY_``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from workers.contract.errors import DbtUsageError

PREFIX = "DBT_RELAY_"

_SCHEMES = ("redis", "rediss", "unix", "redis+socket")

Positive = Annotated[float, msgspec.Meta(gt=0)]
Limit = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings. Each field is an environment variable, in lower case and without the prefix.

    Attributes:
        broker_url: URL of Redis in Celery's or redis-py's format; empty: the embedded stack.
        namespace: prefix of every Redis key.
        queue: the Celery queue.
        lease_seconds: seconds after which a lease expires if it is not renewed.
        reap_seconds: seconds between two sweeps of a worker's reaper.
        result_ttl: seconds for which an ended run is kept. The setting of the worker that ends it counts.
        session_seconds: seconds for which a run on a single-process warehouse keeps a worker process while other
            runs wait for one. The run keeps the warehouse's lock.
        drain_seconds: seconds for which a stopping worker continues its steps. Then it hands back unfinished steps,
            and another worker starts them again.
        priority: of submitted runs: from 0 (first) to 9 (last), as in Celery with Redis.
        node_soft_time_limit, node_time_limit, run_deadline: of submitted runs, in seconds; 0 is unlimited
            (`messages.Limits`).
        relation_locks: for a node whose relation another run is writing: ``wait``, ``refuse`` (the node fails), or
            ``off`` (both write). The setting of the worker that plans the run counts.
        max_losses: number of attempts of a node that may end with the loss of their worker before the node fails.
        process_memory: MB of memory that a worker process may use. Above, it is replaced between two tasks. 0 is its
            share of the memory of the machine or container.
        contexts: number of parsed projects that a worker process keeps.
        env_deny: comma-separated names (``*`` is a wildcard) of values that a remote caller does not send and a worker
            does not accept: secrets, and variables that make programs load or start other programs.
        env_send: comma-separated names (``*`` is a wildcard) of values that a remote caller sends beside those that the
            project and its profile read; `env_deny` takes precedence.
        project_check: whether a worker compares its copy of the project with the caller's (``on``, ``off``).
        project_dir: path of the project on this worker, where it differs from the caller's.
        runtime_dir: folder of the embedded stack's socket and state.
        embedded: set by the embedded stack for its workers.
        patches: the functions of dbt that a worker replaces: all (empty), only those that are not for speed (``off``),
            or all but these comma-separated patches.
        log_format: ``text``, ``json`` or ``auto`` (text on a terminal).
        log_level: lowest level of dbt-relay's log.
    """

    broker_url: str = ""
    namespace: str = "relay"
    queue: str = "dbt-relay"
    lease_seconds: Positive = 8.0
    reap_seconds: Positive = 1.0
    result_ttl: Count = 86400
    session_seconds: Positive = 10.0
    drain_seconds: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = 0
    node_soft_time_limit: Limit = 0.0
    node_time_limit: Limit = 0.0
    run_deadline: Limit = 0.0
    relation_locks: Literal["wait", "refuse", "off"] = "wait"
    max_losses: Count = 3
    process_memory: Limit = 0.0
    contexts: Count = 8
    env_deny: str = (
        "AWS_*,*SECRET*,*PASSWORD*,*TOKEN*,*PRIVATE_KEY*,LD_*,DYLD_*,PYTHON*,PATH,HOME,"
        "BASH_ENV,ENV,IFS,SHELL,EDITOR,PAGER,GIT_*,SSH_*,GCONV_PATH,NODE_OPTIONS,PERL5*,RUBY*,JAVA_TOOL_OPTIONS"
    )
    env_send: str = ""
    project_check: Literal["on", "off"] = "on"
    project_dir: str = ""
    runtime_dir: str = ""
    embedded: bool = False
    patches: str = ""
    log_format: str = "auto"
    log_level: str = "INFO"


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment. ``REDIS_URL`` counts where ``DBT_RELAY_BROKER_URL`` is not set.

    Raises:
        DbtUsageError: a value has the wrong type or range. The text names the variable.
    """
    environ = os.environ if environ is None else environ
    fields = {field.name for field in msgspec.structs.fields(Settings)}
    given = {
        name[len(PREFIX) :].lower(): value
        for name, value in environ.items()
        if name.startswith(PREFIX) and value != ""
    }
    given = {name: value for name, value in given.items() if name in fields}
    if "broker_url" not in given and environ.get("REDIS_URL"):
        given["broker_url"] = environ["REDIS_URL"]
    if given.get("broker_url"):
        name = f"{PREFIX}BROKER_URL" if environ.get(f"{PREFIX}BROKER_URL") else "REDIS_URL"
        checked_broker_url(given["broker_url"], name)
    try:
        return msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        name = str(error).rpartition("$.")[2].rstrip("`")
        raise DbtUsageError(
            f"environment variable {PREFIX}{name.upper()}={given.get(name)!r}: {error}"
        ) from error


_NOT_SUPPORTED = {
    "sentinel": "Redis Sentinel is not supported yet: name the primary",
    **dict.fromkeys(
        ("amqp", "amqps", "pyamqp"), "RabbitMQ is not supported: the state of a run is kept in Redis"
    ),
}


def checked_broker_url(url: str, name: str = f"{PREFIX}BROKER_URL (or REDIS_URL)") -> str:
    """Return a valid broker URL unchanged.

    Args:
        url: the URL.
        name: the variable that contains it, for the error text.

    Raises:
        DbtUsageError: the URL is not valid. The text contains neither the URL nor urllib's error: both may contain
            part of the password.
    """
    scheme, found, _ = url.partition("://")
    if not found:
        problem = "it does not begin with redis://"
    elif scheme not in _SCHEMES:
        problem = _NOT_SUPPORTED.get(scheme, f"{scheme}:// is not a scheme of Redis")
    else:
        try:
            port = urlsplit(url).port
            problem = "its port is 0" if port == 0 else ""
        except ValueError:
            problem = "its host or port cannot be read"
    if problem:
        raise DbtUsageError(
            f"{name} is not the URL of a Redis server: {problem}. Use redis://USER:PASSWORD@HOST:PORT/DB, rediss:// or "
            "unix://, and percent-encode characters such as / # ? @ [ in the password (/ is %2F)."
        )
    return url


def tls_options(url: str) -> dict[str, str] | None:
    """Return the TLS options of a ``rediss://`` URL by redis-py's names; None for a URL without TLS.

    Certificates are verified unless the URL contains ``ssl_cert_reqs=none``. kombu does not verify them by default.
    """
    if not url.startswith("rediss://"):
        return None
    given = {name: value for name, value in parse_qsl(urlsplit(url).query) if name.startswith("ssl_")}
    return {"ssl_cert_reqs": "required", **given}


def redis_url(url: str) -> str:
    """Convert a broker URL to redis-py's format (``redis+socket:///path?virtual_host=0`` becomes ``unix://``).

    Raises:
        DbtUsageError: the URL is not valid (`checked_broker_url`).
    """
    checked_broker_url(url)
    if url.startswith("redis+socket://"):
        return "unix://" + url[len("redis+socket://") :].replace("virtual_host=", "db=")
    return url


def celery_url(url: str) -> str:
    """Convert a broker URL to Celery's format, without its TLS options (`tls_options`).

    Raises:
        DbtUsageError: the URL is not valid (`checked_broker_url`).
    """
    checked_broker_url(url)
    if url.startswith("unix://"):
        return "redis+socket://" + url[len("unix://") :].replace("db=", "virtual_host=")
    if url.startswith("rediss://"):
        parts = urlsplit(url)
        others = [(name, value) for name, value in parse_qsl(parts.query) if not name.startswith("ssl_")]
        return parts._replace(query=urlencode(others)).geturl()
    return url
