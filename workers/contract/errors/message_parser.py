"""Takes dbt's text of an error apart: who says it, about what, and the sentence that matters.

The form is dbt's (`dbt_common.exceptions.base.DbtRuntimeError.__str__`)::

    Database Error in model orders (models/orders.sql)
      column "nmae" does not exist
      LINE 14:     nmae,
                   ^
      compiled code at target/run/shop/models/orders.sql

and, for hooks, ``shop.on-run-start.1 failed, error:`` above the database's own words
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
"""How dbt-duckdb begins the traceback of a Python model (`environments.run_python_job`)."""

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
    """An error text, taken apart.

    Attributes:
        text: all of it, without colours.
        kind: dbt's word before "Error": Database, Compilation, Parsing, Runtime …, or an empty string.
        resource, name, path: the node that dbt names in the first line, or empty strings.
        core: what is left for a person to read, and for the patterns to match: without the first
            line, quoted SQL, rows of data, the macro stack and dbt's indentation.
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
        """The first sentence of `core`, without DuckDB's word for the kind of error."""
        for line in self.core.splitlines():
            if line.strip():
                return re.sub(r"^[A-Z][A-Za-z ]* Error: ", "", line.strip())
        return ""


class Frame(msgspec.Struct, frozen=True):
    """The place in a Python model where it failed: line of the model's file, and its code."""

    line: int
    code: str


def parse_message(message: str) -> ParsedMessage:
    """`message` taken apart. Any text is fine: what is not there stays empty."""
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
            # an error that dbt raised once more (dbt.task.runnable, as ``compile`` does): this one says where
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
    """What a Python model raised, ``KeyError: 'sales'``, and whether DuckDB did (then in its own words)."""
    lines = core.splitlines()
    last_frame = max((n for n, line in enumerate(lines) if line.startswith('  File "')), default=-1)
    for number in range(last_frame + 1, len(lines)):
        if lines[number].strip() and not lines[number].startswith(" "):
            raised = "\n".join(lines[number:]).strip()
            own_words = _DUCKDB_CLASS.sub("", raised)
            return own_words, own_words != raised
    return core, False


def frame_in_python(core: str, raw_code: str) -> Frame | None:
    """The innermost line of the traceback that is in the model's own code, or None."""
    source = raw_code.splitlines()
    for frame in reversed(list(_FRAME.finditer(core))):
        line, code = int(frame["line"]), (frame["code"] or "").strip()
        if code and line <= len(source) and source[line - 1].strip() == code:
            return Frame(line, code)
    return None
