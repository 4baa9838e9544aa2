"""Returns dbt's artifact files to a caller who cannot read the project's folder of this worker."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from workers.contract.folder_identity import folder_identity
from workers.contract.keys import ARTIFACTS
from workers.contract.messages import RunRequest
from workers.engine.interface import RunSpec
from workers.ledger.ledger import Ledger


def return_artifacts(ledger: Ledger, request: RunRequest, spec: RunSpec, target_path: str) -> None:
    """Store the artifacts that the run left in its target folder. Nothing is stored where the caller has that folder.

    Args:
        target_path: where dbt left them; empty where the engine does not know.

    Raises:
        redis.OutOfMemoryError: Redis is full.
    """
    target = Path(target_path or _target_path(spec))
    if request.place and request.place == folder_identity(os.path.join(spec.project_dir, target)):
        return
    for name in ARTIFACTS:
        path = target / name
        try:
            if path.stat().st_mtime >= spec.started_at - 1:
                ledger.store_artifact(spec.run_id, name, zlib.compress(path.read_bytes(), 6))
        except OSError:
            continue  # not every command leaves every file


def _target_path(spec: RunSpec) -> str:
    """Where a whole command leaves its artifacts, by its arguments and environment."""
    for position, arg in enumerate(spec.args):
        if arg == "--target-path" and position + 1 < len(spec.args):
            return os.path.join(spec.cwd, spec.args[position + 1])
        if arg.startswith("--target-path="):
            return os.path.join(spec.cwd, arg.partition("=")[2])
    return os.path.join(spec.project_dir, spec.env.get("DBT_TARGET_PATH", "target"))
