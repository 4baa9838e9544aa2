"""Rules that recognise errors: which exception class or wording has which error code."""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """A wording: when it is found in the text the error has this code, and its groups are facts."""

    code: str
    wording: str

    def search(self, text: str) -> re.Match[str] | None:
        """Where `text` has the wording; ``^`` and ``$`` are those of a line.

        It is compiled when it is first needed (and kept by `re`): most programs that import this
        never see an error.
        """
        return re.search(self.wording, text, re.MULTILINE)


def make_rules(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    """Rules from pairs of code and wording."""
    return tuple(Rule(code, wording) for code, wording in pairs)
