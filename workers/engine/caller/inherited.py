"""Gives this process, for the time of a step, what dbt would inherit from the run's caller.

``docs/surroundings.md`` lists every attribute, and those that stay the worker's on purpose.
"""

from __future__ import annotations

import contextlib
import locale
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping

from workers.contract.process_attributes import SOFT_LIMITS
from workers.engine.caller.duckdb_time_zone import duckdb_in_callers_zone
from workers.engine.interface import RunSpec

_LOCALE = ("LC_ALL", "LC_CTYPE", "LANG")
_UTF8_LOCALE = "C.UTF-8"


@contextlib.contextmanager
def inherit_from_caller(spec: RunSpec) -> Iterator[None]:
    """Set the caller's working directory, environment, locale, temporary folder, umask, limits and time zone.

    Raises:
        OSError: this worker cannot enter the caller's working directory.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_working_directory(spec.cwd))
        stack.enter_context(_environment(spec.env))
        stack.enter_context(_locale())
        stack.enter_context(_temporary_folder())
        stack.enter_context(_umask(spec.surroundings.umask))
        stack.enter_context(_soft_limits(spec.surroundings.limits))
        stack.enter_context(duckdb_in_callers_zone())
        yield


@contextlib.contextmanager
def _working_directory(cwd: str) -> Iterator[None]:
    # a descriptor, not a path: the worker's folder may have been moved or replaced since it started
    try:
        saved = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        saved = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.chdir(cwd)
        except OSError as error:
            raise type(error)(
                f"this worker cannot enter the working directory {cwd}: {error.strerror}. "
                "A worker needs the project at the same path as its caller, or DBT_RELAY_PROJECT_DIR."
            ) from error
        try:
            yield
        finally:
            os.fchdir(saved)
    finally:
        os.close(saved)


@contextlib.contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    saved = dict(os.environ)
    _set_environment(env)
    try:
        yield
    finally:
        _set_environment(saved)


def _set_environment(env: Mapping[str, str]) -> None:
    zone = os.environ.get("TZ")
    for name in os.environ.keys() - env.keys():
        del os.environ[name]
    for name, value in env.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if os.environ.get("TZ") != zone and hasattr(time, "tzset"):
        time.tzset()


@contextlib.contextmanager
def _locale() -> Iterator[None]:
    """Set ``LC_CTYPE`` as Python sets it at its start: it is the default encoding of `open`."""
    saved = locale.setlocale(locale.LC_CTYPE)
    wanted = next((os.environ[name] for name in _LOCALE if os.environ.get(name)), "")
    try:
        # Python replaces the C locale by C.UTF-8 (PEP 538), and ignores a locale that does not exist
        locale.setlocale(locale.LC_CTYPE, _UTF8_LOCALE if wanted in {"", "C", "POSIX"} else wanted)
    except locale.Error:
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, _UTF8_LOCALE)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_CTYPE, saved)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[None]:
    """Reset `tempfile`'s cached folder: it may be another caller's, or no longer exist."""
    tempfile.tempdir = None
    try:
        yield
    finally:
        tempfile.tempdir = None


@contextlib.contextmanager
def _umask(umask: int | None) -> Iterator[None]:
    if umask is None:
        yield
        return
    saved = os.umask(umask)
    try:
        yield
    finally:
        os.umask(saved)


@contextlib.contextmanager
def _soft_limits(limits: Mapping[str, int]) -> Iterator[None]:
    saved = []
    for name in SOFT_LIMITS:
        number = getattr(resource, name)
        soft, hard = resource.getrlimit(number)
        wanted = _within(limits.get(name, soft), hard)
        if name == "RLIMIT_NOFILE":  # never lowered: the worker's threads need descriptors, too
            wanted = wanted if _is_more(wanted, soft) else soft
        if wanted != soft:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(number, (wanted, hard))
                saved.append((number, soft))
    try:
        yield
    finally:
        for number, soft in saved:
            resource.setrlimit(number, (soft, resource.getrlimit(number)[1]))


def _is_more(one: int, other: int) -> bool:
    return other != resource.RLIM_INFINITY and (one == resource.RLIM_INFINITY or one > other)


def _within(soft: int, hard: int) -> int:
    return hard if hard != resource.RLIM_INFINITY and _is_more(soft, hard) else soft
