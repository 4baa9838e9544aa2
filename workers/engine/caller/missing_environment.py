"""Raises an error when dbt looks up an environment variable that the caller has but did not send.

A remote caller sends the variables that it finds in the project's files, and some may not be sent at all. For a
variable that was not sent, dbt would use a default or this worker's own value. So each such lookup is an error that
names the variable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from dbt.cli import requires
from dbt_common.context import get_invocation_context
from dbt_common.exceptions import DbtRuntimeError

from workers.contract.environment import Withheld


class EnvironmentNotSentError(DbtRuntimeError):
    """dbt looked up variables that the caller has and did not send to this worker."""

    def __init__(self, names: Iterable[str], withheld: Withheld) -> None:
        named = sorted(names)
        denied = [name for name in named if name in withheld.denied]
        unsent = [name for name in named if name not in withheld.denied]
        text = f"env_var: the caller of this run has a value that was not sent to the worker: {', '.join(named)}."
        if unsent:
            text += f" Set DBT_RELAY_ENV_SEND={','.join(unsent)} where you start the command."
        if denied:
            text += (
                f" {', '.join(denied)} may not be sent (DBT_RELAY_ENV_DENY, and every DBT_ENV_SECRET_ name): "
                "set it in the environment of the workers."
            )
        super().__init__(text)


class CheckedEnvironment(dict[str, str]):
    """Environment of an invocation, which dbt reads for each ``env_var`` (dbt.context.base.BaseContext.env_var).

    Attributes:
        seen: names that dbt looked up.
        collecting: whether missing values are reported together at the end (`missing_values_at_end`).
    """

    def __init__(self, env: Mapping[str, str], withheld: Withheld) -> None:
        super().__init__(env)
        self.seen: set[str] = set()
        self.collecting = False
        self._withheld = withheld
        names = withheld.names | withheld.denied - env.keys()
        # dbt itself looks these up for every project (dbt.cli.requires._cross_propagate_engine_env_vars)
        self._names = {name for name in names if not name.startswith("DBT_ENGINE_")}

    def __contains__(self, name: object) -> bool:
        self.record_lookup((str(name),))
        return super().__contains__(name)

    def record_lookup(self, names: Iterable[str]) -> None:
        """Record that dbt looks up `names`, or did so in the parse that is reused now.

        Raises:
            EnvironmentNotSentError: a value was not sent, and `collecting` is off.
        """
        self.seen.update(names)
        if not self.collecting:
            self.check()

    def check(self) -> None:
        """Check the names that were looked up so far.

        Raises:
            EnvironmentNotSentError: a value was not sent.
        """
        missing = self.seen & self._names
        if missing:
            raise EnvironmentNotSentError(missing, self._withheld)


def current_environment() -> CheckedEnvironment:
    """The environment of the step that this process is executing."""
    env = get_invocation_context().env
    return env if isinstance(env, CheckedEnvironment) else CheckedEnvironment(env, Withheld())


@contextmanager
def missing_values_at_end() -> Iterator[None]:
    """Report all values that were not sent in one error, at the end. The code within must not write to the warehouse.

    Raises:
        EnvironmentNotSentError: a value was not sent; also replaces dbt's own error that a value is missing.
    """
    env = current_environment()
    env.collecting = True
    try:
        yield
    except Exception:
        env.check()
        raise
    finally:
        env.collecting = False
    env.check()


@contextmanager
def checked_environment(withheld: Withheld) -> Iterator[None]:
    """Give commands that dbt executes whole a `CheckedEnvironment` (dbt.cli.requires.preflight)."""
    get_env = requires.get_env
    requires.get_env = lambda: CheckedEnvironment(get_env(), withheld)
    try:
        yield
    finally:
        requires.get_env = get_env
