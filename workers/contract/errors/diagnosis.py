"""A recognised failure, with the questions that its message and its suggested fix ask of it."""

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
    """What is known of a failure once it has a code.

    Attributes:
        code: the error's.
        cause: the code of what went wrong in it, where the node has a code of its own; else the same.
        facts: what the text says, by name.
        file, line: the place, where known.
        in_sql: whether `line` is one of the compiled SQL, not of `file`.
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
        """model, test, hook …, or an empty string."""
        if self.parsed.hook or "-on-run-" in (self.node or ""):
            return "hook"
        return self.failure.resource_type or (self.node or "").partition(".")[0] or self.parsed.resource

    @property
    def name(self) -> str:
        """What a person calls the node, and what ``--select`` takes; or an empty string."""
        if self.parsed.hook:
            return f"{self.parsed.hook} {self.parsed.hook_index + 1}"
        kind, _, rest = (self.node or "").partition(".")
        parts = rest.split(".")[1:]
        if not parts:
            return self.parsed.name
        if kind == "unit_test":
            return parts[-1]
        if kind == "test":
            return parts[0]  # what follows is a hash
        return ".".join(parts)

    @property
    def where(self) -> str:
        """``model orders``, or an empty string."""
        return f"{self.resource} {self.name}".strip() if self.name else ""

    @property
    def place(self) -> str:
        """``models/orders.sql``, with the line where it is a line of that file."""
        if self.resource == "hook":
            return f"{self.file or 'dbt_project.yml'}, {self.where}"
        if self.file is None:
            return self.where or "the project"
        return f"{self.file}, line {self.line}" if self.line is not None and not self.in_sql else self.file

    @property
    def place_in_sql(self) -> str:
        """`place`, and the line of the compiled SQL where that is what is known."""
        return f"{self.place} (line {self.line} of its compiled SQL)" if self.in_sql else self.place

    @property
    def select(self) -> str:
        """What selects the node on the command line, or a placeholder."""
        if self.resource == "source":
            return f"source:{self.name}"
        return self.name if self.name and self.resource != "hook" else "<node>"

    def fact(self, name: str, default: str = "") -> str:
        """What the text says, or `default`."""
        return self.facts.get(name, default)

    def named(self, name: str) -> str:
        """What the text says, or a placeholder to be shown in its stead."""
        return self.facts.get(name) or f"<{name}>"

    def refs(self) -> list[str]:
        """What the node's own code names in ref(), in order."""
        return [found["name"] for found in _REF.finditer(self.failure.raw_code or "")]

    def source_of(self, table: str) -> str | None:
        """``source.table`` when the node's own code reads `table` through source()."""
        for found in _SOURCE.finditer(self.failure.raw_code or ""):
            if found["table"].lower() == table.lower():
                return f"{found['source']}.{found['table']}"
        return None

    def known(self) -> dict[str, str]:
        """Names that a reference may have meant → their resource type, or an empty string."""
        names: dict[str, str] = {}
        for entry in self.failure.known_names:
            kind, _, rest = entry.partition(".")
            if kind in _RESOURCES and rest.count(".") >= 1:
                names[rest.partition(".")[2]] = kind
            else:
                names.setdefault(entry, "")
        return names


Fix: TypeAlias = str | Callable[[Diagnosis], str]
"""What to do about an error: the same for all of its kind, or made from the diagnosis."""
