"""Settings from the environment, validated. One place for both sides; prefix ``DBT_RELAY_``."""

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
    """Every setting, by its environment variable without the prefix, in lower case.

    Attributes:
        broker_url: Redis, in Celery's or redis-py's form; empty: the embedded stack.
        namespace: the first part of every Redis key.
        queue: the Celery queue.
        lease_seconds: how long a claim lasts without a beat.
        reap_seconds: how often a worker looks for lost work.
        result_ttl: seconds that a finished run stays readable; what the worker that ends it says counts.
        session_seconds: for how long a run on a single-process warehouse keeps a worker process that
            others wait for. It keeps the warehouse.
        drain_seconds: for how long a worker that is told to stop lets go on what it executes; what is not
            done then is handed back, and another worker begins it anew.
        priority: of runs that are submitted: 0 goes first, 9 last, as Celery counts on Redis.
        node_soft_time_limit, node_time_limit, run_deadline: of runs that are submitted, in seconds; 0 is
            without a limit (`messages.Limits`).
        relation_locks: what becomes of a node whose relation another run is writing: it waits (``wait``), it
            ends as an error (``refuse``), or both write (``off``). The worker that plans a run decides.
        max_losses: executions of one node that may end with their worker before it is given up.
        process_memory: MB that a worker process may have used before another one takes its place, once it is
            between two tasks; 0 is its share of what the machine or the container has.
        contexts: parsed projects that a worker process keeps.
        env_deny: names (``*`` allowed, comma between) that a remote caller neither sends nor, where the worker's
            setting says so, has taken: secrets, and what makes programs load or start other programs.
        project_dir: where the project lies on this worker when callers name another path.
        runtime_dir: where the embedded stack keeps its socket and state.
        embedded: set by the embedded stack for its workers.
        patches: which functions of dbt a worker replaces: empty for all, ``off`` for none of those that are there for
            speed, or names of patches to leave out, comma between.
        log_format: ``text``, ``json`` or ``auto`` (text on a terminal).
        log_level: of dbt-relay's own log.
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
    project_dir: str = ""
    runtime_dir: str = ""
    embedded: bool = False
    patches: str = ""
    log_format: str = "auto"
    log_level: str = "INFO"


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment. ``REDIS_URL`` stands in for ``DBT_RELAY_BROKER_URL``.

    Raises:
        DbtUsageError: a value of the wrong type or range, with its name.
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
    """A broker URL that can be used.

    Args:
        name: where it was given, for the error.

    Raises:
        DbtUsageError: it is none. Neither the URL nor urllib's text is shown: both may have a part of the password.
    """
    scheme, found, _ = url.partition("://")
    if not found:
        problem = "it does not begin with redis://"
    elif scheme not in _SCHEMES:
        problem = _NOT_SUPPORTED.get(scheme, f"{scheme}:// is no scheme of Redis")
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
    """TLS options of a ``rediss://`` URL, by redis-py's names; None for a URL without TLS.

    Certificates are verified unless the URL says ``ssl_cert_reqs=none``: kombu's default is not to.
    """
    if not url.startswith("rediss://"):
        return None
    given = {name: value for name, value in parse_qsl(urlsplit(url).query) if name.startswith("ssl_")}
    return {"ssl_cert_reqs": "required", **given}


def redis_url(url: str) -> str:
    """A broker URL as redis-py takes it (``redis+socket:///path?virtual_host=0`` becomes ``unix://``).

    Raises:
        DbtUsageError: it is not a URL of a Redis server. The text does not show it.
    """
    checked_broker_url(url)
    if url.startswith("redis+socket://"):
        return "unix://" + url[len("redis+socket://") :].replace("virtual_host=", "db=")
    return url


def celery_url(url: str) -> str:
    """A broker URL as Celery takes it; the options of TLS are given beside it (`tls_options`).

    Raises:
        DbtUsageError: see `checked_broker_url`.
    """
    checked_broker_url(url)
    if url.startswith("unix://"):
        return "redis+socket://" + url[len("unix://") :].replace("db=", "virtual_host=")
    if url.startswith("rediss://"):
        parts = urlsplit(url)
        others = [(name, value) for name, value in parse_qsl(parts.query) if not name.startswith("ssl_")]
        return parts._replace(query=urlencode(others)).geturl()
    return url
