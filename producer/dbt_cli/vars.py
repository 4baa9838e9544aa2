"""dbt's ``--vars``: read, put together from several places, written back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from producer.usage_errors import usage_error
from workers.contract.credentials import MASK

try:  # dbt.clients.yaml_helper prefers the same one; it is ten times faster
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # pragma: no cover - a PyYAML built without libyaml
    from yaml import SafeLoader  # type: ignore[assignment]

EXCERPT = 60
"""Characters shown on each side of a mistake."""

MAX_DEPTH = 200
"""Lists and mappings within each other. libyaml recurses: at some 100,000 it takes the process down."""


def load_yaml(text: str) -> Any:
    """What YAML `text` holds, read as dbt reads it (YAML 1.1, safe).

    Raises:
        ValueError: not YAML; the text says what is wrong and shows where.
    """
    try:
        _check_depth(text)
        return yaml.load(text, Loader=SafeLoader)  # a safe one, whichever of the two
    except yaml.MarkedYAMLError as error:
        raise ValueError(_describe(text, error)) from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise ValueError(" ".join(str(error).split())) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # PyYAML's own constructors of dates, numbers and the like raise these: 2025-13-45
        raise ValueError(f"something in it cannot be read: {error}") from None


def _check_depth(text: str) -> None:
    """Raise ValueError for what is nested too deeply; reads twice only what could be."""
    if sum(text.count(opening) for opening in ("[", "{", "- ", "? ")) <= MAX_DEPTH:
        return
    depth = 0
    for event in yaml.parse(text, Loader=SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"more than {MAX_DEPTH} lists and mappings within each other")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _describe(text: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark or yaml.Mark("", 0, 0, 0, None, 0)
    problem = " ".join((error.problem or error.context or "it cannot be read").split())
    lines = text.splitlines() or [""]
    row, column = mark.line, mark.column
    if row >= len(lines):  # the end of the text, which libyaml puts on a line of its own
        row, column = len(lines) - 1, len(lines[-1])
    start = max(0, column - EXCERPT)
    excerpt = lines[row][start : column + EXCERPT]
    caret = " " * (column - start) + "^"
    return f"{problem} (line {row + 1}, column {column + 1})\n    {excerpt}\n    {caret}"


def load_mapping(text: str, option: str) -> dict[Any, Any]:
    """The mapping that a YAML option such as ``--vars`` holds; dbt.config.utils.parse_cli_yaml_string.

    Raises:
        DbtUsageError: not YAML, or something else than a mapping.
    """
    try:
        value = load_yaml(text)
    except ValueError as error:
        raise usage_error(
            "invalid_yaml",
            f"Invalid value for '{option}': not valid YAML: {error}",
            f'Write {option} as YAML or JSON, such as {option} \'{{"key": "value"}}\'.',
        ) from None
    if isinstance(value, dict):
        return value
    what = "nothing" if value is None else f"a {_kind(value)}"
    hint = f'Write {option} as a mapping, such as {option} \'{{"key": "value"}}\'.'
    if isinstance(value, str) and ":" in value:
        hint += " YAML wants a space after the colon."
    raise usage_error(
        "not_a_mapping",
        f"Invalid value for '{option}': a mapping is needed, and {_clip(text)!r} is {what}.",
        hint,
    )


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true/false value", int: "number", float: "number", list: "list"}
    return names.get(type(value), type(value).__name__)


def _clip(text: str) -> str:
    return text if len(text) <= 2 * EXCERPT else text[: 2 * EXCERPT] + "…"


def checked_year(value: object) -> int:
    """A simulation year as given by a caller. Raises DbtUsageError unless it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise usage_error(
            "invalid_simulation_year",
            f"simulation_year must be a whole number such as 2026, not {value!r}.",
        )
    return value


def checked_vars(value: object) -> dict[str, Any]:
    """dbt_vars as given by a caller. Raises DbtUsageError unless it is a mapping with names as keys."""
    if not isinstance(value, Mapping):
        raise usage_error(
            "invalid_dbt_vars",
            f"dbt_vars must be a mapping such as {{'cola_rate': 0.01}}, not a {_kind(value)}: {value!r}.",
        )
    for key in value:
        if not isinstance(key, str):
            raise usage_error(
                "invalid_dbt_vars", f"dbt_vars has the key {key!r}: names of vars must be text."
            )
    return dict(value)


def merge_vars(sources: Iterable[tuple[str, Mapping[Any, Any]]]) -> dict[Any, Any]:
    """One mapping out of several, each with the name of where it came from.

    Raises:
        DbtUsageError: two of them give different values for a key.
    """
    merged: dict[Any, Any] = {}
    origin: dict[Any, str] = {}
    for source, values in sources:
        for key, raw in values.items():
            value = _plain(raw)
            if key in merged and not _same(merged[key], value):
                raise usage_error(
                    "contradicting_vars",
                    f"The var {key!r} is {merged[key]!r} in {origin[key]} and {value!r} in {source}.",
                    f"Give {key!r} once, or the same value in both places.",
                )
            merged[key] = value
            origin.setdefault(key, source)
    return merged


def _plain(value: Any) -> Any:
    """`value` with tuples as lists and any mapping as a dict: what YAML can say."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _same(one: Any, other: Any) -> bool:
    """Equal and of the same type: a macro that prints it sees no difference (1 and True and 1.0 differ)."""
    return type(one) is type(other) and bool(one == other)


def dump_vars(values: Mapping[Any, Any]) -> str:
    """One line that dbt reads back as `values`: JSON, or YAML where JSON would not come back the same.

    dbt reads it as YAML 1.1, to which ``1e-05`` is text, and dates and keys that are numbers have no
    JSON at all.

    Raises:
        DbtUsageError: a value that neither can say.
    """
    try:
        text = json.dumps(values, ensure_ascii=False)
        if load_yaml(text) == values:
            return text
    except (TypeError, ValueError, RecursionError):
        pass
    for key, value in values.items():
        _representable(key, value)
    text = yaml.safe_dump(dict(values), default_flow_style=True, width=2**31 - 1, sort_keys=False)
    return text.strip()


def _representable(key: Any, value: Any) -> None:
    try:
        yaml.safe_dump({key: value})
    except (yaml.YAMLError, RecursionError, TypeError, ValueError):
        raise usage_error(
            "invalid_dbt_vars",
            f"The var {key!r} holds a {type(value).__name__} that cannot be written as YAML: {_clip(repr(value))}.",
            "Give vars as text, numbers, true/false, dates, None, lists and mappings of those.",
        ) from None


_SECRET_NAME = re.compile(r"pass|pwd|secret|token|api_?key|private|credential", re.IGNORECASE)


def shown_args(args: Sequence[str]) -> list[str]:
    """dbt's arguments for people who list runs: values of ``--vars`` whose names sound like secrets are masked.

    Args:
        args: as they were submitted.
    """
    shown: list[str] = []
    for word in args:
        option, equals, value = word.partition("=")
        if equals and option == "--vars":
            shown.append(f"--vars={_masked(value)}")
        else:
            shown.append(_masked(word) if shown and shown[-1] == "--vars" else word)
    return shown


def _masked(text: str) -> str:
    if not _SECRET_NAME.search(text):
        return text
    try:
        values = load_yaml(text)
    except ValueError:
        return MASK
    masked = _without_secrets(values)
    return text if masked == values else yaml.safe_dump(masked, default_flow_style=True, width=10**9).strip()


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: MASK if _SECRET_NAME.search(str(name)) else _without_secrets(each)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(each) for each in value]
    return value
