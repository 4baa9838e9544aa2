"""What to do about an error: a sentence or two for each code, with the names that matter in it."""

from __future__ import annotations

from typing import Final

from workers.contract.errors.diagnosis import Diagnosis, Fix
from workers.contract.errors.suggested_fixes.data import DATA_FIXES, seed_error
from workers.contract.errors.suggested_fixes.project import PROJECT_FIXES
from workers.contract.errors.suggested_fixes.warehouse import WAREHOUSE_FIXES

FIXES: Final[dict[str, Fix]] = {**PROJECT_FIXES, **WAREHOUSE_FIXES, **DATA_FIXES}
"""Code → what to do."""


def suggest(diagnosis: Diagnosis) -> str:
    """What to do about `diagnosis`: about the node first, where that is news, then about the cause."""
    known = FIXES[diagnosis.cause]
    fix = known if isinstance(known, str) else known(diagnosis)
    if diagnosis.code == diagnosis.cause:
        return fix
    if diagnosis.code == "seed_error" and (diagnosis.fact("value") or diagnosis.cause == "compilation_error"):
        return seed_error(diagnosis)
    if diagnosis.code == "test_errored":
        return f"The test itself could not run; no data was judged. {fix}"
    return fix
