"""Rules that recognise errors by exception class and by wording: dbt's in `dbt`, the databases' in `databases`."""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """A regular expression and the error code of a text that matches it. Its groups become facts of the error."""

    code: str
    wording: str

    def search(self, text: str) -> re.Match[str] | None:
        """Search `text`; ``^`` and ``$`` match at each line.

        The pattern is compiled at its first use (`re` caches it): most programs that import this module never
        classify an error.
        """
        return re.search(self.wording, text, re.MULTILINE)


def make_rules(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    """Make rules from pairs of code and regular expression."""
    return tuple(Rule(code, wording) for code, wording in pairs)
