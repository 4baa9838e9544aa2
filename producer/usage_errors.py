"""Errors of commands that are refused before anything is queued."""

from __future__ import annotations

from collections.abc import Iterable

from workers.contract.errors import Category, DbtUsageError, ErrorInfo


def usage_error(code: str, message: str, fix: str = "", *, detail: str = "") -> DbtUsageError:
    """Build a `DbtUsageError`. Its text is the message and, on a second line, the fix.

    Args:
        code: stable identifier of the mistake.
        message: what is wrong, one sentence.
        fix: how to correct it.
        detail: dbt's usage lines, where dbt prints them above the message.
    """
    info = ErrorInfo(
        code=code,
        category=Category.USAGE.value,
        error_class=DbtUsageError.__name__,
        message=message,
        detail=detail,
        suggested_fix=fix,
    )
    return DbtUsageError(f"{message}\n{fix}" if fix else message, info)


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the `known` words that are similar to `word`, best first."""
    from difflib import get_close_matches  # only errors need it

    return get_close_matches(word, sorted(set(known)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Format `` Did you mean 'a'?`` as click does, with a leading space; empty where no word is similar."""
    found = nearest(word, known)
    if not found:
        return ""
    if len(found) == 1:
        return f" Did you mean {found[0]!r}?"
    return f" (Did you mean one of: {', '.join(map(repr, found))}?)"
