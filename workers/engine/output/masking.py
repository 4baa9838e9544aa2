"""Masks the credentials of a profile in the errors of a connection that cannot be opened.

dbt masks the values of ``DBT_ENV_SECRET_*`` alone (`dbt_common.exceptions.base.scrub_secrets`). A driver may
repeat another credential of profiles.yml in its error. That error is masked where it is raised, so dbt's line, its
result and dbt-relay's records agree. Nothing else that dbt says or writes is changed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from dbt.adapters.factory import FACTORY
from dbt_common.exceptions import env_secrets

from workers.contract.credentials import credentials_in, names_credential, scrub

_SHORTEST = 4  # characters: a shorter value occurs in any text

_opening: ContextVar[Any] = ContextVar("opening", default=None)
"""Credentials of the connection that this thread is opening."""


def profile_secrets(credentials: Any) -> tuple[str, ...]:
    """The values of a profile's target that must not be shown.

    A value that the adapter shows itself (`Credentials.connection_info`: schema, user, host) is none, though a
    password may be equal to it: to mask it would change names. Neither is the name of a setting.

    Args:
        credentials: dbt's, of any adapter.
    """
    settings = credentials.to_dict(omit_none=True)
    shown = {str(settings.get(name)) for name in credentials._connection_keys()}
    secrets = {value for name, setting in settings.items() for value in _secrets_of(name, setting)}
    return tuple(value for value in secrets - shown - settings.keys() if len(value) >= _SHORTEST)


def _secrets_of(name: str, setting: Any) -> Iterator[str]:
    if isinstance(setting, Mapping):
        for key, value in setting.items():
            yield from _secrets_of(str(key), value)
    elif isinstance(setting, (list, tuple)):
        for value in setting:
            yield from _secrets_of(name, value)
    elif isinstance(setting, str):
        if names_credential(name):
            yield setting
        yield from credentials_in(setting)


def known_secrets() -> tuple[str, ...]:
    """The values that no error record may show: those that dbt masks, and credentials of the adapters in use."""
    adapters: list[Any] = list(FACTORY.adapters.values())
    own = (value for adapter in adapters for value in profile_secrets(adapter.config.credentials))
    return (*env_secrets(), *own)


def mask_connection_errors(adapter: Any) -> None:
    """Mask the credentials of an adapter's connections in the errors that it raises when it opens one."""
    opened = adapter.connections.open

    @functools.wraps(opened)  # with the mark of `fencing`
    def masked_open(connection: Any) -> Any:
        token = _opening.set(connection.credentials)
        try:
            return opened(connection)
        except Exception as error:
            _mask(error, profile_secrets(connection.credentials))
            raise
        finally:
            _opening.reset(token)

    # dbt asks the manager for it each time (dbt.adapters.base.connections.set_connection_name)
    adapter.connections.open = masked_open


def mask_while_opening(text: str) -> str:
    """A line of dbt, masked where it is logged while this thread opens a connection (dbt logs each failed try)."""
    credentials = _opening.get()
    return text if credentials is None else scrub(text, profile_secrets(credentials))


def _mask(error: BaseException | None, secrets: tuple[str, ...]) -> None:
    # those before it too: dbt prints them in its traceback
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.args = tuple(scrub(part, secrets) if isinstance(part, str) else part for part in error.args)
        message = getattr(error, "msg", None)
        if isinstance(message, str):  # dbt's own exceptions
            with contextlib.suppress(AttributeError):
                error.msg = scrub(message, secrets)  # type: ignore[attr-defined]
        error = error.__cause__ or error.__context__
