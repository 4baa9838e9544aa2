"""Splits dbt's error text into its parts: kind, node, reason and quoted SQL.

dbt's format (`dbt_common.exceptions.base.DbtRuntimeError.__str__`) is::

    Database Error in model orders (models/orders.sql)
      column "nmae" does not exist
      LINE 14:     nmae,
                   ^
      compiled code at target/run/shop/models/orders.sql

For hooks, the first line is ``shop.on-run-start.1 failed, error:`` and the database's text follows
(`dbt.task.run.RunTask.safe_run_hooks`).
"""

from __future__ import annotations

import re
import textwrap
from typing import Final

import msgspec

from workers.contract.errors.sql_excerpt import Quoted, quoted

LONGEST: Final = 20_000
"""Characters of dbt's text that are kept."""

PYTHON_FAILED: Final = "Python model failed:"
"""The text before the traceback of a Python model in dbt-duckdb (`environments.run_python_job`)."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_HEADER = re.compile(
    r"^(?P<kind>[A-Z][A-Za-z ]*?) Error"
    r"(?: in (?P<resource>[a-z_ ]+?) (?P<name>\S+)(?: \((?P<path>[^)]*)\))?)?[ \t]*$"
)
_HOOK = re.compile(r"^(?P<name>\w+\.(?P<hook>on-run-(?:start|end))\.(?P<index>\d+)) failed, error:[ \t]*$")
_ENCOUNTERED_IN = "Error encountered in "
_STACK = re.compile(r"^(?:> in|> called by|compiled code at) .*$", re.MULTILINE)
_PLACE = re.compile(r"^[ \t]*LINE \d+: .*$(?:\n[ \t]*\^[ \t]*$)?", re.MULTILINE)
_DATA = re.compile(r"^(?:DETAIL: +Failing row contains .*|Original Line: .*)$", re.MULTILINE)
_DUCKDB_CLASS = re.compile(r"^(?:_?duckdb\.)+\w+: ")
_FRAME = re.compile(
    r'^  File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.*)\n(?P<code>    .*)?', re.MULTILINE
)


class ParsedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of dbt's error text.

    Attributes:
        text: the whole text, without colours.
        kind: the word before "Error": Database, Compilation, Parsing, Runtime …, or an empty string.
        resource, name, path: the node in the first line, or empty strings.
        core: the text without the first line, quoted SQL, rows of data, the macro stack and dbt's indentation.
            The rules are applied to it.
        place: the line of SQL that the database quotes.
        hook: ``on-run-start`` or ``on-run-end``, or an empty string.
        hook_index: position of that hook, from 0.
    """

    text: str
    kind: str = ""
    resource: str = ""
    name: str = ""
    path: str = ""
    core: str = ""
    place: Quoted | None = None
    hook: str = ""
    hook_index: int = 0

    @property
    def reason(self) -> str:
        """The first line of `core` without DuckDB's prefix, such as ``Binder Error: ``."""
        for line in self.core.splitlines():
            if line.strip():
                return re.sub(r"^[A-Z][A-Za-z ]* Error: ", "", line.strip())
        return ""


class Frame(msgspec.Struct, frozen=True):
    """A line of a Python model in a traceback: its number in the model's file, from 1, and its code."""

    line: int
    code: str


def parse_message(message: str) -> ParsedMessage:
    """Split an error text into its parts. Accepts any text; what it does not contain stays empty."""
    text = _COLOUR.sub("", message).strip("\n").rstrip()
    if len(text) > LONGEST:
        text = text[:LONGEST] + "\n…"
    first, _, rest = text.partition("\n")
    place = quoted(text)
    header = _HEADER.match(first)
    if header is not None:
        kind, resource, name, path = (header[g] or "" for g in ("kind", "resource", "name", "path"))
        body = textwrap.dedent(rest)
        last_line = rest.rpartition("\n")[2]
        _, encountered, where = last_line.partition(_ENCOUNTERED_IN)
        if encountered:
            path = path or where.strip()
            body = textwrap.dedent(rest[: -len(encountered + where)].rstrip("\n"))
        within = _HEADER.match(body.partition("\n")[0])
        if not resource and within is not None and within["resource"]:
            # dbt wrapped the error in another one (dbt.task.runnable, as ``compile`` does): the inner one names the node
            return msgspec.structs.replace(parse_message(body), text=text, place=place)
        return ParsedMessage(
            text=text, kind=kind, resource=resource, name=name, path=path, core=_core(body), place=place
        )
    hook = _HOOK.match(first)
    if hook is not None:
        return ParsedMessage(
            text=text, resource="operation", name=hook["name"], core=_core(rest.strip()), place=place,
            hook=hook["hook"], hook_index=int(hook["index"]),
        )  # fmt: skip
    return ParsedMessage(text=text, core=_core(text), place=place)


def _core(body: str) -> str:
    for pattern in (_STACK, _PLACE, _DATA):
        body = pattern.sub("", body)
    return re.sub(r"\n{3,}", "\n\n", body).strip()


def raised_in_python(core: str) -> tuple[str, bool]:
    """Find the exception of a Python model in its traceback.

    Args:
        core: `ParsedMessage.core`.

    Returns:
        The exception, such as ``KeyError: 'sales'``, and whether DuckDB raised it (then without the class name).
    """
    lines = core.splitlines()
    last_frame = max((n for n, line in enumerate(lines) if line.startswith('  File "')), default=-1)
    for number in range(last_frame + 1, len(lines)):
        if lines[number].strip() and not lines[number].startswith(" "):
            raised = "\n".join(lines[number:]).strip()
            text = _DUCKDB_CLASS.sub("", raised)
            return text, text != raised
    return core, False


def frame_in_python(core: str, raw_code: str) -> Frame | None:
    """Find the innermost line of a traceback that is in the model's own code.

    Args:
        core: `ParsedMessage.core`.
        raw_code: the model's code.
    """
    source = raw_code.splitlines()
    for frame in reversed(list(_FRAME.finditer(core))):
        line, code = int(frame["line"]), (frame["code"] or "").strip()
        if code and line <= len(source) and source[line - 1].strip() == code:
            return Frame(line, code)
    return None
