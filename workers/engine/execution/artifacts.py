"""The artifacts of a run: manifest.json, semantic_manifest.json and run_results.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dbt.artifacts.schemas.run import RunExecutionResult, RunResultsArtifact
from dbt.constants import MANIFEST_FILE_NAME, SEMANTIC_MANIFEST_FILE_NAME
from dbt.events.types import ArtifactWritten
from dbt.parser.manifest import write_semantic_manifest
from dbt_common.events.functions import fire_event
from dbt_common.utils.encoding import ForgivingJSONEncoder

from workers.engine.execution.run_state import RunState
from workers.engine.project.manifest_file import write_bytes
from workers.engine.template_state.calls import as_parsed


def write_manifest(run: RunState, changed: set[str]) -> None:
    """Write manifest.json and semantic_manifest.json (dbt.parser.manifest.write_manifest).

    Args:
        changed: unique ids of entries to write in the run's state; all others are written as parsed.
    """
    target = run.config.project_target_path
    run.manifest.metadata = run.config.get_metadata()
    run.manifest.fill_tracking_metadata()
    path = os.path.join(target, MANIFEST_FILE_NAME)
    write_bytes(path, run.context.manifest_file.render(run.manifest, changed))
    fire_event(ArtifactWritten(artifact_type="WritableManifest", artifact_path=path))
    path = os.path.join(target, SEMANTIC_MANIFEST_FILE_NAME)
    if run.context.semantic_manifest is None:
        with as_parsed():
            write_semantic_manifest(manifest=run.manifest, target_path=target)
        run.context.semantic_manifest = Path(path).read_bytes()
    else:
        write_bytes(path, run.context.semantic_manifest)
        fire_event(ArtifactWritten(artifact_type="SemanticManifest", artifact_path=path))


def run_results_of(result: RunExecutionResult) -> dict[str, Any]:
    """Convert results to the content of dbt's run_results.json."""
    artifact = RunResultsArtifact.from_execution_results(
        results=result.results, elapsed_time=result.elapsed_time,
        generated_at=result.generated_at, args=result.args,
    )  # fmt: skip
    return plain_artifact(artifact)


def plain_artifact(artifact: RunResultsArtifact) -> dict[str, Any]:
    """Convert an artifact of dbt to JSON-compatible data."""
    plain: dict[str, Any] = json.loads(
        json.dumps(artifact.to_dict(omit_none=False), cls=ForgivingJSONEncoder)
    )
    return plain
