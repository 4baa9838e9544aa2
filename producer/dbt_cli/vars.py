"""dbt's ``--vars``: parses them, merges several sources, and writes them back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from producer.usage_errors import usage_error
from workers.contract.credentials import MASK

try:  # dbt.clients.yaml_helper prefers it too; it is ten times faster
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # pragma: no cover - a PyYAML built without libyaml
    from yaml import SafeLoader  # type: ignore[assignment]

EXCERPT = 60
"""Characters that an error text shows on each side of a mistake."""

MAX_DEPTH = 200
"""Levels of nested lists and mappings. libyaml recurses: at about 100,000 levels it crashes the process."""


def load_yaml(text: str) -> Any:
    """Parse YAML as dbt does (YAML 1.1, safe loader).

    Raises:
        ValueError: it is not YAML; the text has the reason and the position.
    """
    try:
        _check_depth(text)
        return yaml.load(text, Loader=SafeLoader)  # both are safe
    except yaml.MarkedYAMLError as error:
        raise ValueError(_describe(text, error)) from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise ValueError(" ".join(str(error).split())) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # PyYAML's constructors of dates and numbers raise these: 2025-13-45
        raise ValueError(f"a value in it cannot be read: {error}") from None


def _check_depth(text: str) -> None:
    """Raise ValueError for text that is nested too deeply. Parses only text with enough brackets and dashes."""
    if sum(text.count(opening) for opening in ("[", "{", "- ", "? ")) <= MAX_DEPTH:
        return
    depth = 0
    for event in yaml.parse(text, Loader=SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"more than {MAX_DEPTH} levels of nested lists and mappings")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _describe(text: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark or yaml.Mark("", 0, 0, 0, None, 0)
    problem = " ".join((error.problem or error.context or "it cannot be read").split())
    lines = text.splitlines() or [""]
    row, column = mark.line, mark.column
    if row >= len(lines):  # libyaml reports the end of the text on a line of its own
        row, column = len(lines) - 1, len(lines[-1])
    start = max(0, column - EXCERPT)
    excerpt = lines[row][start : column + EXCERPT]
    caret = " " * (column - start) + "^"
    return f"{problem} (line {row + 1}, column {column + 1})\n    {excerpt}\n    {caret}"


def load_mapping(text: str, option: str) -> dict[Any, Any]:
    """Parse the mapping of a YAML option such as ``--vars`` (dbt.config.utils.parse_cli_yaml_string).

    Raises:
        DbtUsageError: it is not YAML, or not a mapping.
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
        hint += " YAML needs a space after the colon."
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
    """Return `value`. Raises DbtUsageError unless it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise usage_error(
            "invalid_simulation_year",
            f"simulation_year must be a whole number such as 2026, not {value!r}.",
        )
    return value


def checked_vars(value: object) -> dict[str, Any]:
    """Copy `value` to a dict. Raises DbtUsageError unless it is a mapping with text keys."""
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
    """Merge several mappings.

    Args:
        sources: name of the source, for error texts, and its mapping.

    Raises:
        DbtUsageError: two sources have different values for a key.
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
                    f"Set {key!r} in one place, or to the same value in both.",
                )
            merged[key] = value
            origin.setdefault(key, source)
    return merged


def _plain(value: Any) -> Any:
    """Convert tuples to lists and mappings to dicts, which YAML can represent."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _same(one: Any, other: Any) -> bool:
    """Whether values are equal and of the same type: a macro prints 1, True and 1.0 differently."""
    return type(one) is type(other) and bool(one == other)


def dump_vars(values: Mapping[Any, Any]) -> str:
    """Format vars as one line that dbt parses back to `values`: as JSON, or as YAML where JSON would differ.

    dbt parses YAML 1.1, where ``1e-05`` is text; JSON has no dates and no numeric keys.

    Raises:
        DbtUsageError: neither format can represent a value.
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
            "Use text, numbers, true/false, dates, None, and lists and mappings of those.",
        ) from None


_SECRET_NAME = re.compile(r"pass|pwd|secret|token|api_?key|private|credential", re.IGNORECASE)


def shown_args(args: Sequence[str]) -> list[str]:
    """Mask secrets in dbt's arguments for display: values of ``--vars`` whose names look like those of secrets."""
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
