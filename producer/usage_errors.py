"""Refusing what cannot work, before anything is queued."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from workers.contract.errors import Category, DbtUsageError, ErrorInfo


def usage_error(code: str, message: str, fix: str = "", *, detail: str = "") -> DbtUsageError:
    """A `DbtUsageError`, ready to raise. Its text is the message and, on a line of its own, the fix.

    Args:
        code: a stable word for the exact kind of mistake.
        message: what is wrong, one sentence.
        fix: what to do about it.
        detail: dbt's usage lines, where dbt would print them above the message.
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
    """Up to three of the `known` words that look like `word`, best first."""
    return get_close_matches(word, sorted(set(known)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'a'?`` with a leading space, as click words it; empty when nothing is near."""
    found = nearest(word, known)
    if not found:
        return ""
    if len(found) == 1:
        return f" Did you mean {found[0]!r}?"
    return f" (Did you mean one of: {', '.join(map(repr, found))}?)"
