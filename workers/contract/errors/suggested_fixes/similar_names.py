"""Finds names that resemble a misspelt one, for suggested fixes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, among: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` names of `among` that resemble `word`, the most similar first. Case is ignored."""
    by_lower = {name.lower(): name for name in among}
    found = difflib.get_close_matches(word.lower(), list(by_lower), n=count, cutoff=0.6)
    return [by_lower[name] for name in found]


def did_you_mean(word: str, among: Iterable[str]) -> str:
    """Return ``Did you mean 'name'?``, with up to two more names, or an empty string if no name is similar."""
    found = nearest(word, among)
    if not found:
        return ""
    return f"Did you mean {' or '.join(repr(name) for name in found)}?"


def listed(text: str) -> list[str]:
    """Split ``"a", 'b', c`` into names without quotes."""
    return [name.strip().strip("'\"") for name in text.split(",") if name.strip().strip("'\"")]
