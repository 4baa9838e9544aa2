"""Finds names that resemble a misspelt one, for suggested fixes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, among: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of `among` that look like `word`, the likeliest first; letter case does not matter."""
    by_lower = {name.lower(): name for name in among}
    found = difflib.get_close_matches(word.lower(), list(by_lower), n=count, cutoff=0.6)
    return [by_lower[name] for name in found]


def did_you_mean(word: str, among: Iterable[str]) -> str:
    """``Did you mean 'name'?``, with up to two others, or an empty string when nothing comes near."""
    found = nearest(word, among)
    if not found:
        return ""
    return f"Did you mean {' or '.join(repr(name) for name in found)}?"


def listed(text: str) -> list[str]:
    """The names in ``"a", 'b', c``, without quotes."""
    return [name.strip().strip("'\"") for name in text.split(",") if name.strip().strip("'\"")]
