"""Finds the line of compiled SQL that a database error is about, and shows the lines around it.

A database numbers the lines of the statement that dbt sent: a comment, ``create table … as (`` and then the compiled
SQL. The offset differs by adapter and materialization, so the line is found by the text that the database quotes.
"""

from __future__ import annotations

import re

import msgspec

AROUND = 3  # lines shown before and after
_WIDTH = 200  # characters of a line that are shown
_WORTH_FINDING = 8  # characters of a compiled line that make it recognisable within a longer quote


class Quoted(msgspec.Struct, frozen=True):
    """A line as DuckDB and Postgres quote it: ``LINE 3: select nmae`` and a caret below.

    Attributes:
        line: line of the sent statement, from 1.
        text: the quoted line; either end may be cut and marked with ``...``.
        column: column of the caret within `text`, from 0, or None.
    """

    line: int
    text: str
    column: int | None = None


_QUOTED = re.compile(
    r"^(?P<indent>[ \t]*)LINE (?P<line>\d+): (?P<text>.*)$(?:\n(?P<caret>[ \t]*)\^)?", re.MULTILINE
)


def quoted(text: str) -> Quoted | None:
    """Find the quoted line in an error text."""
    found = _QUOTED.search(text)
    if found is None:
        return None
    column = None
    if found["caret"] is not None:
        column = len(found["caret"]) - len(found["indent"]) - len(f"LINE {found['line']}: ")
    return Quoted(int(found["line"]), found["text"], column if column is not None and column >= 0 else None)


def locate(sql: str, place: Quoted | None, word: str = "") -> tuple[int | None, int | None]:
    """Find the quoted line in `sql`.

    Args:
        sql: the compiled SQL.
        place: the quoted line. Of several equal lines in `sql` the first counts.
        word: a name. If no line is quoted, or the quoted one is not in `sql` (as in a hook), the only line that
            contains the name counts.

    Returns:
        Line (from 1) and column (from 0); None for what is unknown.
    """
    lines = sql.splitlines()
    if place is not None:
        number = _line_of(lines, place)
        if number is not None:
            return number, _column_of(lines[number - 1], place)
    if word:
        pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        having = [(n, found.start()) for n, line in enumerate(lines, 1) if (found := pattern.search(line))]
        if len(having) == 1:
            return having[0]
    return None, None


def _line_of(lines: list[str], place: Quoted) -> int | None:
    cut = place.text.strip().startswith("...") or place.text.strip().endswith("...")
    core = _core(place.text)
    if not core:
        return None
    for number, line in enumerate(lines, 1):
        if core == line.strip() or (cut and core in line):
            return number
    # dbt's wrapper may share a line with the first or the last line of the SQL
    filled = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if filled and len(filled[0][1]) >= _WORTH_FINDING and core.endswith(filled[0][1]):
        return filled[0][0]
    if filled and len(filled[-1][1]) >= _WORTH_FINDING and core.startswith(filled[-1][1]):
        return filled[-1][0]
    return None


def _column_of(line: str, place: Quoted) -> int | None:
    if place.column is None:
        return None
    core, bare = _core(place.text), line.strip()
    shared = core if core in line else bare
    column = place.column - place.text.index(shared) + line.index(shared)
    return column if 0 <= column < len(line) else None


def _core(text: str) -> str:
    return text.strip().removeprefix("...").removesuffix("...").strip()


def excerpt(sql: str, line: int, column: int | None = None) -> str:
    """Return the numbered lines around a line of SQL.

    Args:
        sql: the compiled SQL.
        line: the line to mark with ``>``, from 1. Up to `AROUND` lines on each side are included.
        column: the column to mark with ``^``, from 0, or None.

    Raises:
        ValueError: `sql` has no such line.
    """
    lines = sql.splitlines()
    if not 1 <= line <= len(lines):
        raise ValueError(f"line {line} of {len(lines)}")
    first, last = max(1, line - AROUND), min(len(lines), line + AROUND)
    width = len(str(last))
    shown = []
    for number in range(first, last + 1):
        text = lines[number - 1].expandtabs(1).rstrip()
        text = text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
        shown.append(f"{'>' if number == line else ' '} {number:>{width}} | {text}".rstrip())
        if number == line and column is not None and column < _WIDTH:
            shown.append(f"  {'':>{width}} | {' ' * column}^")
    return "\n".join(shown)
