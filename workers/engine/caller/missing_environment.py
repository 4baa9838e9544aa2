"""CheckedEnvironment values that a run's caller has and that did not reach this worker.

Which values a remote caller sends is found by reading the project's text, and some may not be sent at all. dbt would take
the default of such a value, or this worker's own. So each lookup of such a name is an error, which names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from dbt.cli import requires
from dbt_common.context import get_invocation_context
from dbt_common.exceptions import DbtRuntimeError

from workers.contract.environment import Withheld


class EnvironmentNotSentError(DbtRuntimeError):
    """dbt looked up names whose values the caller has and this worker has not."""

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
    """dbt's environment of an invocation. dbt asks it for each ``env_var`` (dbt.context.base.BaseContext.env_var).

    Attributes:
        seen: names that dbt looked up.
        collecting: whether a lookup of a value that was not sent is an error later (`missing_values_at_end`).
    """

    def __init__(self, env: Mapping[str, str], withheld: Withheld) -> None:
        super().__init__(env)
        self.seen: set[str] = set()
        self.collecting = False
        self._withheld = withheld
        names = withheld.names | withheld.denied - env.keys()
        # dbt's own, which it looks up whatever the project says (dbt.cli.requires._cross_propagate_engine_env_vars)
        self._names = {name for name in names if not name.startswith("DBT_ENGINE_")}

    def __contains__(self, name: object) -> bool:
        self.record_lookup((str(name),))
        return super().__contains__(name)

    def record_lookup(self, names: Iterable[str]) -> None:
        """Note that dbt looks up `names`, or did when it parsed what is used again now.

        Raises:
            EnvironmentNotSentError: a value was not sent.
        """
        self.seen.update(names)
        if not self.collecting:
            self.check()

    def check(self) -> None:
        """
        Raises:
            EnvironmentNotSentError: a value that was looked up was not sent.
        """
        missing = self.seen & self._names
        if missing:
            raise EnvironmentNotSentError(missing, self._withheld)


def current_environment() -> CheckedEnvironment:
    """The environment of the step that is executed."""
    env = get_invocation_context().env
    return env if isinstance(env, CheckedEnvironment) else CheckedEnvironment(env, Withheld())


@contextmanager
def missing_values_at_end() -> Iterator[None]:
    """Name all values that dbt looks up and that were not sent in one error, at the end. Nothing may be written to the
    warehouse meanwhile.

    Raises:
        EnvironmentNotSentError: a value was not sent; also instead of dbt's error that it is missing.
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
    """Let a command that dbt executes whole read its environment from here (dbt.cli.requires.preflight)."""
    get_env = requires.get_env
    requires.get_env = lambda: CheckedEnvironment(get_env(), withheld)
    try:
        yield
    finally:
        requires.get_env = get_env
