"""The suggested fix of each error code: one or two sentences with the names from the failure.

`project`: code, files, configuration and selection of the dbt project. `warehouse`: connection, locks, limits and SQL.
`data`: tests, contracts, freshness, seeds, snapshots and Python models. `run`: time limits, workers, the broker.
"""

from __future__ import annotations

from typing import Final

from workers.contract.errors.diagnosis import Diagnosis, Fix
from workers.contract.errors.suggested_fixes.data import DATA_FIXES, seed_error
from workers.contract.errors.suggested_fixes.project import PROJECT_FIXES
from workers.contract.errors.suggested_fixes.run import RUN_FIXES
from workers.contract.errors.suggested_fixes.warehouse import WAREHOUSE_FIXES

FIXES: Final[dict[str, Fix]] = {**PROJECT_FIXES, **WAREHOUSE_FIXES, **DATA_FIXES, **RUN_FIXES}
"""Error code → suggested fix."""


def suggest(diagnosis: Diagnosis) -> str:
    """Return the suggested fix for a diagnosis."""
    known = FIXES[diagnosis.cause]
    fix = known if isinstance(known, str) else known(diagnosis)
    if diagnosis.code == diagnosis.cause:
        return fix
    if diagnosis.code == "seed_error" and (diagnosis.fact("value") or diagnosis.cause == "compilation_error"):
        return seed_error(diagnosis)
    if diagnosis.code == "test_errored":
        return f"The test could not run, so no data was tested. {fix}"
    return fix
