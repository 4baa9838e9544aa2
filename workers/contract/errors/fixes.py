"""What to do about an error: a sentence or two for each code, with the names that matter in it."""

from __future__ import annotations

from typing import Final

from workers.contract.errors.finding import Finding, Fix
from workers.contract.errors.fixes_data import DATA_FIXES, seed_error
from workers.contract.errors.fixes_project import PROJECT_FIXES
from workers.contract.errors.fixes_warehouse import WAREHOUSE_FIXES

FIXES: Final[dict[str, Fix]] = {**PROJECT_FIXES, **WAREHOUSE_FIXES, **DATA_FIXES}
"""Code → what to do."""


def suggest(finding: Finding) -> str:
    """What to do about `finding`: about the node first, where that is news, then about the cause."""
    known = FIXES[finding.cause]
    fix = known if isinstance(known, str) else known(finding)
    if finding.code == finding.cause:
        return fix
    if finding.code == "seed_error" and (finding.fact("value") or finding.cause == "compilation_error"):
        return seed_error(finding)
    if finding.code == "test_errored":
        return f"The test itself could not run; no data was judged. {fix}"
    return fix
