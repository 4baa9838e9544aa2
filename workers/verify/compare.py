"""Compares the outcomes of a command on the two sides."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from workers.verify.rules import HINTS_BY_TIME, Rules
from workers.verify.sides import Outcome
from workers.verify.warehouses import Relation

OWN_FILES = frozenset({"partial_parse.msgpack"})
"""Files of dbt's partial parsing, which dbt-relay does not write: a worker may not need to parse."""

OWN_LINES = (
    "Unable to do partial parsing",
    "Performance info: ",
)
"""Starts of lines about dbt's partial parse file, which dbt-relay does not use."""


@dataclass(frozen=True)
class Difference:
    """A place where the two sides differ, with both values."""

    where: str
    plain: Any
    relay: Any

    def __str__(self) -> str:
        return self.shown()

    def shown(self, other: str = "relay") -> str:
        """Format the difference as lines. `other` is the label of the second side, five letters long."""
        plain, relay = _without_common_start(self.plain, self.relay)
        return f"{self.where}\n    plain: {_short(plain)}\n    {other}: {_short(relay)}"


@dataclass
class Allowance:
    """Settings of the comparison, beyond the common rules.

    Attributes:
        measured: columns of measurements or of hashes over a time. They are compared by where they are null
            and by the number of distinct values.
        order: whether lines and results must have the same order too (with one thread).
        skip_lines: starts of lines that are not compared. The caller gives the reason of each.
    """

    measured: frozenset[str] = frozenset({"dbt_scd_id"})  # of a snapshot: a hash over its time
    order: bool = False
    skip_lines: tuple[str, ...] = ()


@dataclass
class Compared:
    """The differences, and how much was compared."""

    differences: list[Difference] = field(default_factory=list)
    nodes: int = 0
    relations: int = 0
    rows: int = 0

    def note(self, where: str, plain: Any, relay: Any) -> None:
        """Add a difference if the values are not equal."""
        if plain != relay:
            self.differences.append(Difference(where, plain, relay))


def compare(plain: Outcome, relay: Outcome, rules: tuple[Rules, Rules], allowance: Allowance) -> Compared:
    """Find all differences between two outcomes. `rules` are those of plain dbt and of dbt-relay."""
    seen = Compared()
    seen.note("exit code", plain.return_code, relay.return_code)
    _run_results(seen, plain.run_results, relay.run_results, rules, allowance)
    _relations(seen, plain.relations, relay.relations, rules, allowance)
    _manifest(seen, plain.manifest, relay.manifest, rules)
    _files(seen, plain, relay, rules)
    if not relay.refused:
        _lines(seen, plain, relay, rules, allowance)
    return seen


# -- run results -----------------------------------------------------------------------------------

_MEASURED = {"execution_time", "elapsed_time", "generated_at", "invocation_id", "invocation_started_at"}


def _run_results(
    seen: Compared, plain: Any, relay: Any, rules: tuple[Rules, Rules], allowance: Allowance
) -> None:
    if plain is None or relay is None:
        seen.note("run_results.json", plain is not None, relay is not None)
        return
    left, right = _entries(plain, rules[0]), _entries(relay, rules[1])
    seen.nodes += len(left)
    seen.note("run_results nodes", sorted(left), sorted(right))
    for key in sorted(left.keys() & right.keys()):
        _dicts(seen, f"run_results {key}", left[key], right[key])
    if allowance.order:
        seen.note("run_results order", list(left), list(right))
    _dicts(seen, "run_results", _head(plain, rules[0]), _head(relay, rules[1]))


def _entries(artifact: dict[str, Any], rules: Rules) -> dict[str, dict[str, Any]]:
    entries = {}
    for result in artifact["results"]:
        entry = rules.value({**result, "timing": [each["name"] for each in result["timing"]]})
        entry["execution_time"] = type(result["execution_time"]).__name__
        entry["message"] = None if entry["message"] is None else rules.line(entry["message"])
        entries[result["unique_id"]] = entry
    return entries


def _head(artifact: dict[str, Any], rules: Rules) -> dict[str, Any]:
    head = {**artifact, "results": None}
    for name in _MEASURED:
        if name in head:
            head[name] = type(head[name]).__name__
        if name in head["metadata"]:
            head["metadata"] = {**head["metadata"], name: type(head["metadata"][name]).__name__}
    plain: dict[str, Any] = rules.value(head)
    return plain


# -- the warehouse ---------------------------------------------------------------------------------


def _relations(
    seen: Compared,
    plain: dict[str, Relation],
    relay: dict[str, Relation],
    rules: tuple[Rules, Rules],
    allowance: Allowance,
) -> None:
    left = {rules[0].text(name): relation for name, relation in plain.items()}
    right = {rules[1].text(name): relation for name, relation in relay.items()}
    seen.relations += len(left)
    seen.note("relations", sorted(left), sorted(right))
    for name in sorted(left.keys() & right.keys()):
        one, other = left[name], right[name]
        for part in ("kind", "columns", "comment", "definition", "extras"):
            seen.note(
                f"{name} {part}", rules[0].value(getattr(one, part)), rules[1].value(getattr(other, part))
            )
        seen.rows += len(one.rows)
        missing, added = _multisets(_rows(one, rules[0], allowance), _rows(other, rules[1], allowance))
        columns = _columns_that_differ(one, other, rules) if missing or added else ""
        head = f"{name} rows: {len(one.rows)} and {len(other.rows)}{columns}; on one side only:"
        seen.note(head, missing, added)


def _rows(relation: Relation, rules: Rules, allowance: Allowance) -> list[str]:
    """Format each row as ``column=value, …``; for measured columns also count the distinct values."""
    names = [str(column[0]) for column in relation.columns] or ["(error)"]
    measured = [place for place, name in enumerate(names) if name in allowance.measured]

    def shown(place: int, value: Any) -> str:
        if place in measured:
            return "<null>" if value is None else "<measured>"
        return repr(rules.value(value))

    rows = [
        ", ".join(
            f"{name}={shown(place, value)}"
            for place, (name, value) in enumerate(zip(names, row, strict=False))
        )
        for row in relation.rows
    ]
    distinct = {names[place]: len({row[place] for row in relation.rows}) for place in measured}
    return [*rows, *(f"{name}: {number} distinct values" for name, number in distinct.items())]


def _columns_that_differ(one: Relation, other: Relation, rules: tuple[Rules, Rules]) -> str:
    """Name the columns with different values, if the relations have the same columns."""
    names = [column[0] for column in one.columns]
    if names != [column[0] for column in other.columns]:
        return ""

    def values(relation: Relation, side: Rules, place: int) -> collections.Counter[str]:
        return collections.Counter(repr(side.value(row[place])) for row in relation.rows if place < len(row))

    differ = [
        str(name)
        for place, name in enumerate(names)
        if values(one, rules[0], place) != values(other, rules[1], place)
    ]
    return f", which differ in {', '.join(differ)}" if differ else ""


def _multisets(left: list[str], right: list[str]) -> tuple[list[str], list[str]]:
    one, other = collections.Counter(left), collections.Counter(right)
    return sorted((one - other).elements()), sorted((other - one).elements())


# -- artifacts -------------------------------------------------------------------------------------


def _manifest(seen: Compared, plain: Any, relay: Any, rules: tuple[Rules, Rules]) -> None:
    if plain is None or relay is None:
        seen.note("manifest.json", plain is not None, relay is not None)
        return
    _dicts(seen, "manifest", _without_times(plain, rules[0]), _without_times(relay, rules[1]))


def _without_times(manifest: dict[str, Any], rules: Rules) -> Any:
    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: type(item).__name__
                if key
                in {"created_at", "generated_at", "invocation_id", "invocation_started_at", "run_started_at"}
                else clean(item)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [clean(item) for item in value]
        return value

    return rules.value(clean(manifest))


def _files(seen: Compared, plain: Outcome, relay: Outcome, rules: tuple[Rules, Rules]) -> None:
    left, right = _texts(plain, rules[0]), _texts(relay, rules[1])
    seen.note(
        "files of the target folder", sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys())
    )
    for name in sorted(left.keys() & right.keys()):
        if not (_is_one_of_several(name, left[name], plain, rules[0])
                and _is_one_of_several(name, right[name], relay, rules[1])):  # fmt: skip
            seen.note(f"target/{name}", left[name], right[name])


def _is_one_of_several(name: str, text: str, side: Outcome, rules: Rules) -> bool:
    """Whether a file is the input of several unit tests and holds the rows of one of them.

    The unit tests of a YAML file share one file for each input (dbt.parser.unit_tests), and any of dbt's threads
    may write it last. The rows of each test are in its compiled code, which is compared.
    """
    found, manifest = _INPUT.fullmatch(name), side.manifest or {}
    if found is None:
        return False
    path, wanted = found.groups()
    tests = {
        unique_id
        for unique_id, test in manifest.get("unit_tests", {}).items()
        if test["original_file_path"] == path
        and any(_input_name(given["input"], test["model"]) == wanted for given in test["given"])
    }
    ran = (side.run_results or {}).get("results", [])
    codes = [rules.text(each["compiled_code"] or "") for each in ran if each["unique_id"] in tests]
    return len(tests) > 1 and (not codes or any(text.strip() in code for code in codes))


_INPUT = re.compile(r"compiled/[^/]+/(.+\.ya?ml)/([^/]+)\.sql")


def _input_name(expression: str, model: str) -> str:
    """Name of the model or source in ``ref('m')``, ``ref('package', 'm', v=1)``, ``source('s', 't')`` or ``this``."""
    names = re.findall(r"""["']([^"']+)["']""", re.sub(r",\s*(v|version)\s*=.*", "", expression))
    return str(names[-1]) if names else model


def _texts(side: Outcome, rules: Rules) -> dict[str, str]:
    return {name: rules.text(text) for name, text in side.files.items() if name not in OWN_FILES}


# -- lines -----------------------------------------------------------------------------------------


def _lines(
    seen: Compared,
    plain: Outcome,
    relay: Outcome,
    rules: tuple[Rules, Rules],
    allowance: Allowance,
) -> None:
    ran = (plain.run_results or {}).get("results", [])
    unit_tests = any(entry["unique_id"].startswith("unit_test.") for entry in ran)

    def compared(lines: list[str], side: Rules) -> list[str]:
        mine = [side.line(line) for line in lines]
        if unit_tests:
            mine = [re.sub(r"# of \d+ ", "# of # ", line) for line in mine]
        left_out = (*OWN_LINES, *HINTS_BY_TIME, *allowance.skip_lines)
        return [line.rstrip() for line in mine if not any(start in line for start in left_out)]

    left, right = compared(plain.lines, rules[0]), compared(relay.lines, rules[1])
    missing, added = _multisets(left, right)
    seen.note("lines of the console", missing, added)
    if allowance.order and not (missing or added):
        seen.note("order of lines", *_first_difference(left, right))


def _first_difference(left: list[str], right: list[str]) -> tuple[Any, Any]:
    for place, (one, other) in enumerate(zip(left, right, strict=True)):
        if one != other:
            return [place, one], [place, other]
    return None, None


# -- helpers ---------------------------------------------------------------------------------------


def _dicts(seen: Compared, where: str, plain: Any, relay: Any) -> None:
    """Note the deepest places where two JSON values differ."""
    for path, one, other in _walk(plain, relay):
        seen.note(f"{where} {path}".rstrip(), one, other)


def _walk(plain: Any, relay: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(plain, dict) and isinstance(relay, dict):
        for key in sorted({*plain, *relay}, key=str):
            if key not in plain or key not in relay:
                yield f"{path}/{key}", plain.get(key, "(absent)"), relay.get(key, "(absent)")
            else:
                yield from _walk(plain[key], relay[key], f"{path}/{key}")
    elif isinstance(plain, list) and isinstance(relay, list) and len(plain) == len(relay):
        for place, (one, other) in enumerate(zip(plain, relay, strict=True)):
            yield from _walk(one, other, f"{path}/{place}")
    elif plain != relay:
        yield path, plain, relay


def _short(value: Any, most: int = 700, items: int = 5) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        if not value:
            return "(nothing)"
        lines = [_short_text(item, 300) for item in value[:items]]
        lines += [f"… and {len(value) - items} more"] if len(value) > items else []
        return "\n           ".join(lines)
    return _short_text(repr(value), most)


def _short_text(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def _without_common_start(one: Any, other: Any) -> tuple[Any, Any]:
    """Cut the common start of two long texts."""
    if not (isinstance(one, str) and isinstance(other, str)):
        return one, other
    shared = max(0, len(os.path.commonprefix([one, other])) - 60)  # noqa: RUF071 - not paths
    return one[shared:], other[shared:]
