"""A dbt command line, read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from producer.dbt_cli.options import HELP, VERSION, Table, packaged


@dataclass(frozen=True)
class Invocation:
    """A parsed dbt command line.

    Attributes:
        args: dbt's arguments, without the word ``dbt``.
        command: ``build``, ``docs generate``, …, aliases resolved (``ls`` is ``list``); empty where only
            ``--help`` or ``--version`` was given.
        options: values by dbt's parameter name, from the command line and from environment variables that
            dbt reads; positional arguments (``macro``) too. With ``help`` or ``version``, nothing else is parsed.
        environment: option name → the environment variable that set it.
        table: the table by which it was parsed.
    """

    args: tuple[str, ...]
    command: str
    options: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    table: Table = field(default_factory=packaged, compare=False, repr=False)

    @property
    def wants_help(self) -> bool:
        """Whether ``--help`` was given."""
        return bool(self.options.get(HELP))

    @property
    def wants_version(self) -> bool:
        """Whether ``--version`` was given."""
        return bool(self.options.get(VERSION))
