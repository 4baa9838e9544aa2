"""Parts of a project that dbt parses in one piece."""

from __future__ import annotations

import msgspec


class Unit(msgspec.Struct, frozen=True):
    """A part of a project that is parsed in one piece.

    Attributes:
        file: dbt's file id, ``package://models/a.sql``.
        key, name: of an entry of a YAML file, ``models`` and the model's name.
        node: unique id of a generic test of that entry.
    """

    file: str = ""
    key: str = ""
    name: str = ""
    node: str = ""

    @property
    def entry(self) -> Unit:
        """The file or entry that the unit belongs to."""
        return Unit(self.file, self.key, self.name)


PROJECT = Unit()
"""Everything that belongs to no file or entry."""

NO_UNIT = Unit(file="-")
"""Reads that no part of the parse depends on."""
