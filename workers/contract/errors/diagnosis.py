"""A failure whose error code is known, and the wordings that messages and suggested fixes need."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from workers.contract.errors.failure import Failure
from workers.contract.errors.message_parser import ParsedMessage

_REF: Final = re.compile(r"\bref\(\s*(?:['\"][\w-]+['\"]\s*,\s*)?['\"](?P<name>[\w.-]+)['\"]")
_SOURCE: Final = re.compile(r"\bsource\(\s*['\"](?P<source>[\w.-]+)['\"]\s*,\s*['\"](?P<table>[\w.-]+)['\"]")
_RESOURCES: Final = frozenset({"model", "seed", "snapshot", "source"})


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """A failure whose error code is known.

    Attributes:
        failure: the facts that were given.
        parsed: the parts of its text.
        code: the error code.
        cause: the code of the cause. It differs from `code` for tests, hooks, seeds and snapshots.
        facts: names and values in the text, by the group of the rule.
        file, line: the place of the error, where known.
        in_sql: whether `line` is a line of the compiled SQL, not of `file`.
        node: dbt's unique id, where known.
    """

    failure: Failure
    parsed: ParsedMessage
    code: str
    cause: str
    facts: dict[str, str]
    file: str | None = None
    line: int | None = None
    in_sql: bool = False
    node: str | None = None

    @property
    def resource(self) -> str:
        """The node's resource type (model, test, hook …), or an empty string."""
        if self.parsed.hook or "-on-run-" in (self.node or ""):
            return "hook"
        return self.failure.resource_type or (self.node or "").partition(".")[0] or self.parsed.resource

    @property
    def name(self) -> str:
        """The node's name as ``--select`` accepts it, or an empty string."""
        if self.parsed.hook:
            return f"{self.parsed.hook} {self.parsed.hook_index + 1}"
        kind, _, rest = (self.node or "").partition(".")
        parts = rest.split(".")[1:]
        if not parts:
            return self.parsed.name
        if kind == "unit_test":
            return parts[-1]
        if kind == "test":
            return parts[0]  # a hash follows
        return ".".join(parts)

    @property
    def where(self) -> str:
        """Resource type and name, ``model orders``, or an empty string."""
        return f"{self.resource} {self.name}".strip() if self.name else ""

    @property
    def place(self) -> str:
        """File and, where known, line of the file: ``models/orders.sql, line 3``."""
        if self.resource == "hook":
            return f"{self.file or 'dbt_project.yml'}, {self.where}"
        if self.file is None:
            return self.where or "the project"
        return f"{self.file}, line {self.line}" if self.line is not None and not self.in_sql else self.file

    @property
    def place_in_sql(self) -> str:
        """`place`, with the line of the compiled SQL where that is known."""
        return f"{self.place} (line {self.line} of its compiled SQL)" if self.in_sql else self.place

    @property
    def select(self) -> str:
        """The value of ``--select`` for the node, or a placeholder."""
        if self.resource == "source":
            return f"source:{self.name}"
        return self.name if self.name and self.resource != "hook" else "<node>"

    def fact(self, name: str, default: str = "") -> str:
        """Return a fact from the text, or `default`."""
        return self.facts.get(name, default)

    def named(self, name: str) -> str:
        """Return a fact from the text, or the placeholder ``<name>``."""
        return self.facts.get(name) or f"<{name}>"

    def refs(self) -> list[str]:
        """Return the names in the ref() calls of the node's code, in order."""
        return [found["name"] for found in _REF.finditer(self.failure.raw_code or "")]

    def source_of(self, table: str) -> str | None:
        """Return ``source.table`` if the node's code reads `table` with source(), else None."""
        for found in _SOURCE.finditer(self.failure.raw_code or ""):
            if found["table"].lower() == table.lower():
                return f"{found['source']}.{found['table']}"
        return None

    def known(self) -> dict[str, str]:
        """Return the project's names that a reference may mean → resource type, or an empty string."""
        names: dict[str, str] = {}
        for entry in self.failure.known_names:
            kind, _, rest = entry.partition(".")
            if kind in _RESOURCES and rest.count(".") >= 1:
                names[rest.partition(".")[2]] = kind
            else:
                names.setdefault(entry, "")
        return names


Fix: TypeAlias = str | Callable[[Diagnosis], str]
"""A suggested fix: a fixed text, or a function of the diagnosis."""
