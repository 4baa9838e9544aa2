"""Writes the artifacts that a run returned to the target folder of its caller's project."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from producer.dbt_cli.invocation import Invocation
from producer.dbt_cli.project import project_dir, target_path
from workers.contract.keys import ARTIFACTS, RUN_RESULTS
from workers.contract.log import log
from workers.contract.redis_values import UnpackError, unpack
from workers.contract.results import DbtResult

if TYPE_CHECKING:
    from producer.client import RelayClient


def write_artifacts(
    client: RelayClient, invocation: Invocation, result: DbtResult, *, cwd: Path, environ: Mapping[str, str]
) -> None:
    """Write ``run_results.json``, the manifest and other artifacts where the caller's dbt would have.

    Does nothing where the caller has no project folder.
    """
    if not project_dir(invocation, cwd, environ).is_dir():
        return
    target = target_path(invocation, cwd, environ)
    if result.run_results is not None and not _has_content(target / RUN_RESULTS, result.run_results):
        _replace(target / RUN_RESULTS, json.dumps(result.run_results).encode())
    for name, packed in client.artifacts(result.run_id, ARTIFACTS).items():
        _write(target / name, packed, result.run_id)


def _write(path: Path, packed: bytes, run_id: str) -> None:
    try:
        content = unpack(packed)
    except UnpackError as error:
        log("an artifact is not readable, it is left out", level=logging.WARNING, run=run_id,
            artifact=path.name, error=str(error))  # fmt: skip
    else:
        _replace(path, content)


def _has_content(path: Path, run_results: Mapping[str, Any]) -> bool:
    """Whether the file has these run results: a worker of this machine has written it."""
    try:
        return bool(json.loads(path.read_bytes()) == run_results)
    except (OSError, ValueError):
        return False


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
