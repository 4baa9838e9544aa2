"""Builds a project once for each setting of ``DBT_RELAY_PATCHES`` and prints each result as a JSON line.

    python -m tests.support.each_patch PROJECT

Each setting has its own process, forked from one that imported dbt without patches. The first process parses the
project; the others use dbt's partial parse.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import duckdb

from workers.engine.startup import prepare_import

prepare_import()

from workers.engine.engine import Engine  # noqa: E402 - `prepare_import` has to run first
from workers.engine.patches import registry  # noqa: E402
from workers.engine.patches.catalog import CATALOG  # noqa: E402
from workers.engine.warehouse.concurrency import close_warehouse  # noqa: E402

ALL_ON = ""


def settings() -> list[str]:
    """Return the settings: all patches on, all off, and all on but one."""
    return [ALL_ON, registry.OFF, *(patch.name for patch in CATALOG)]


def build(project: Path, setting: str) -> dict[str, Any]:
    """Build the project with a setting.

    Returns:
        dbt's exit code, status of each node, rows of each relation, and names of the disabled patches.
    """
    os.environ["RELAY_TEST_PATCHES"] = setting
    from tests.support.engine import Shared, drive, spec_for  # importing it applies the patches

    file = project / "warehouse.duckdb"
    file.unlink(missing_ok=True)
    spec = spec_for(project, "build", env={"RELAY_TEST_DUCKDB": str(file)})
    ran = drive(Engine(Shared()), spec)
    close_warehouse()
    with duckdb.connect(str(file)) as connection:
        tables = "select table_schema, table_name from information_schema.tables order by all"
        rows = {
            f"{schema}.{name}": repr(connection.execute(f'from "{schema}"."{name}" order by all').fetchall())
            for schema, name in connection.execute(tables).fetchall()
        }
    disabled = [each.name for each in registry.states() if each.state == registry.DISABLED]
    rows = {name: found.replace(spec.invocation_id, "") for name, found in rows.items()}
    return {"code": ran.finished.return_code, "statuses": ran.statuses, "rows": rows, "disabled": disabled}


def main(project: str) -> None:
    """Build the project in a child process for each setting. Exit with an error if a child fails."""
    for setting in settings():
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                print(json.dumps([setting, build(Path(project), setting)]), flush=True)
            except BaseException:  # noqa: BLE001 - the child must not continue the parent's loop
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"{setting or 'all on'}: {status}")


if __name__ == "__main__":
    main(*sys.argv[1:])
