"""Masks the credentials of a profile in the errors of connections that cannot be opened.

dbt masks only the values of ``DBT_ENV_SECRET_*`` (`dbt_common.exceptions.base.scrub_secrets`). A driver may repeat
another credential of profiles.yml in its error. That error is masked where it is raised, so dbt's line, its result
and dbt-relay's records agree. No other output of dbt is changed.
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

_SHORTEST = 4  # characters: shorter values occur by chance in any text

_opening: ContextVar[Any] = ContextVar("opening", default=None)
"""Credentials of the connection that this thread is opening."""


def profile_secrets(credentials: Any) -> tuple[str, ...]:
    """Return the secret values of a profile's target.

    Excludes values that the adapter itself shows (`Credentials.connection_info`: schema, user, host), even where a
    password equals one of them, and names of settings: masking those would garble the text.

    Args:
        credentials: dbt's credentials, of any adapter.
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
    """Values that error records must not contain: those that dbt masks, and credentials of the adapters in use."""
    adapters: list[Any] = list(FACTORY.adapters.values())
    credentials = (value for adapter in adapters for value in profile_secrets(adapter.config.credentials))
    return (*env_secrets(), *credentials)


def mask_connection_errors(adapter: Any) -> None:
    """Mask the credentials in the errors that an adapter raises when it opens a connection."""
    opened = adapter.connections.open

    @functools.wraps(opened)  # keeps the attribute that `fencing` sets
    def masked_open(connection: Any) -> Any:
        token = _opening.set(connection.credentials)
        try:
            return opened(connection)
        except Exception as error:
            _mask(error, profile_secrets(connection.credentials))
            raise
        finally:
            _opening.reset(token)

    # dbt looks `open` up on the manager at each call (dbt.adapters.base.connections.set_connection_name)
    adapter.connections.open = masked_open


def mask_while_opening(text: str) -> str:
    """Mask a line that this thread logs while it opens a connection (dbt logs each failed attempt)."""
    credentials = _opening.get()
    return text if credentials is None else scrub(text, profile_secrets(credentials))


def _mask(error: BaseException | None, secrets: tuple[str, ...]) -> None:
    # also its causes: dbt prints them in its traceback
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.args = tuple(scrub(part, secrets) if isinstance(part, str) else part for part in error.args)
        message = getattr(error, "msg", None)
        if isinstance(message, str):  # dbt's own exceptions
            with contextlib.suppress(AttributeError):
                error.msg = scrub(message, secrets)  # type: ignore[attr-defined]
        error = error.__cause__ or error.__context__
