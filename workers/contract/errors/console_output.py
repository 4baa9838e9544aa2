"""Finds the first failure in the console output of a dbt command.

dbt starts each message with the time; a line without a time continues the message before it. A command that
dbt aborts prints ``Encountered an error:`` and the exception's text. A failed node is listed at the end as
``Failure in model orders (models/orders.sql)`` with its error text (`dbt.task.printer`). click prints
``Error: …`` below its usage. With ``--log-format json`` each line is an object.

Every function here takes time proportional to the length of the output, which may be megabytes.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_TIME = re.compile(r"^\d{2}:\d{2}:\d{2}(?:\.\d+)?(?: {1,2}|$)(?:\[[a-z]+ ?\] \[[^\]]+\]: )?")
_NODE = re.compile(r"^(?:Failure|Warning) in (?P<resource>[a-z_ ]+?) (?P<name>\S+)(?: \((?P<path>[^)]*)\))?$")
_ENCOUNTERED = re.compile(r"^Encountered an error(?: while running operation)?:[ \n]*")
_USAGE = re.compile(r"^Error: (?P<text>.*(?:\n(?!\d{2}:).+)*)", re.MULTILINE)
_TEST_FAILED = re.compile(r"^Got (?P<failures>\d+) results?, configured to fail if ")
_UNIT_TEST_FAILED = re.compile(r"actual differs from expected:")
_HEADER = re.compile(r"^[A-Z][A-Za-z ]*? Error(?: in \w+ \S+(?: \([^)\n]*\))?)?$", re.MULTILINE)
_LAST_LINE_OF_TRACEBACK = re.compile(
    r"^(?:[A-Za-z_][\w.]*\.)?(?P<text>\w+(?:Error|Exception|Interrupt)(?:: .*)?)$", re.MULTILINE
)
_REPORTED = re.compile(
    r"\b(?P<kind>Compilation|Database) Error(?P<place> in \w+ \S+(?: \([^)]*\))?(?=[:\n]))?:?\s*(?P<rest>.*)",
    re.DOTALL,
)
_TEST_REPORTED = re.compile(r"^.*\btests? failed\b.*$", re.IGNORECASE | re.MULTILINE)


class ConsoleFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A failure as printed on the console. What the console does not print is empty."""

    message: str
    status: str = "error"
    resource: str = ""
    name: str = ""
    path: str = ""
    failures: int | None = None


def first_failure(stdout: str, stderr: str) -> ConsoleFailure | None:
    """Find the first failure that dbt printed.

    Args:
        stdout: what the command wrote on stdout; may have colours.
        stderr: what it wrote on stderr.

    Returns:
        The failure, or None where dbt printed none.
    """
    for text in (stdout, stderr):
        entries = _entries(text)
        found = _in_entries(entries) or _usage("\n".join(entries))
        if found is not None:
            return found
    for text in (stderr, stdout):
        found = _exception_text(_COLOUR.sub("", text))
        if found is not None:
            return found
    return _reported_by_program(_COLOUR.sub("", stderr)) or _reported_by_program(_COLOUR.sub("", stdout))


def _entries(text: str) -> list[str]:
    """Split console output into dbt's messages, without time and colours."""
    entries: list[list[str]] = []  # the lines of each message: a string that grows is copied for each line
    for raw in _COLOUR.sub("", text).splitlines():
        line = raw.rstrip()
        timed = _TIME.match(line)
        if line.startswith("{"):
            entries.append([_message_of_json(line)])
        elif timed is not None:
            entries.append([line[timed.end() :]])
        elif entries:
            entries[-1].append(line)
        else:
            entries.append([line])
    return ["\n".join(lines) for lines in entries]


def _message_of_json(line: str) -> str:
    try:
        event: Any = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return line
    info = event.get("info") if isinstance(event, dict) else None
    message = info.get("msg") if isinstance(info, dict) else None
    return _COLOUR.sub("", message).rstrip() if isinstance(message, str) else line


def _in_entries(entries: list[str]) -> ConsoleFailure | None:
    for number, entry in enumerate(entries):
        encountered = _ENCOUNTERED.match(entry)
        if encountered is not None:
            return ConsoleFailure(message=entry[encountered.end() :].strip("\n"))
        node = _NODE.match(entry.strip())
        if node is not None and entry.startswith("Failure") and number + 1 < len(entries):
            return _of_node(node, entries[number + 1])
    return None


def _of_node(node: re.Match[str], entry: str) -> ConsoleFailure:
    lines = entry.strip("\n").splitlines()
    message = "\n".join([lines[0].lstrip(), *lines[1:]]) if lines else ""
    failed = _TEST_FAILED.match(message)
    status = "fail" if failed is not None or _UNIT_TEST_FAILED.search(message) else "error"
    return ConsoleFailure(
        message=message, status=status, resource=node["resource"], name=node["name"], path=node["path"] or "",
        failures=int(failed["failures"]) if failed is not None else None,
    )  # fmt: skip


def _usage(text: str) -> ConsoleFailure | None:
    found = _USAGE.search(text)
    if found is None or "Usage: " not in text[: found.start()]:
        return None
    return ConsoleFailure(message=f"Usage Error\n  {found['text'].strip()}")


def _exception_text(text: str) -> ConsoleFailure | None:
    """Find a failure in text that is not console output: the text of a dbt exception, or a Python traceback."""
    header = _HEADER.search(text)
    if header is not None:
        return ConsoleFailure(message=text[header.start() :].strip("\n"))
    last = None
    if "Traceback (most recent call last)" in text:
        last = max(_LAST_LINE_OF_TRACEBACK.finditer(text), key=lambda found: found.start(), default=None)
    if last is not None:
        return ConsoleFailure(message=text[last.start("text") :].strip())
    return None


def _reported_by_program(text: str) -> ConsoleFailure | None:
    """Find another program's report of a dbt failure: ``dbt failed: Database Error: …``, ``1 test failed``."""
    found = _REPORTED.search(text)
    if found is not None:
        header = f"{found['kind']} Error{found['place'] or ''}"
        return ConsoleFailure(message=f"{header}\n  {found['rest'].strip()}")
    failed = _TEST_REPORTED.search(text)
    return (
        None if failed is None else ConsoleFailure(message=failed[0].strip(), status="fail", resource="test")
    )
