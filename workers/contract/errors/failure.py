"""The facts about a failure, from which `classify` makes a classified error."""

from __future__ import annotations

import msgspec

from workers.contract.credentials import escaped


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about one failure, as the engine saw them.

    Attributes:
        message: dbt's text: ``RunResult.message``, or ``str(exception)``.
        exceptions: class names: the exception's own, its bases, then its causes'
            (``__cause__``/``__context__``), as ``("CompilationError", "DbtRuntimeError", …)``.
        status: dbt's word for the node (`dbt.artifacts.schemas.results.NodeStatus`).
        command: dbt's sub-command: run, build, deps ….
        adapter: dbt's name of it: duckdb, postgres ….
        node: dbt's unique id.
        resource_type: model, test, unit_test, seed, snapshot, operation (a hook), source ….
        materialized: of a model: table, view, incremental ….
        language: sql or python.
        file: the node's ``original_file_path``.
        raw_code: what the file says.
        compiled_code: what dbt made of it.
        failures: failing rows of a test.
        known_names: names that a reference may have meant (models, seeds, snapshots, sources). Unique
            ids are fine too, and better: a seed is loaded otherwise than a model is built.
        target: the folder that dbt writes to.
        secrets: values that message, detail and suggested fix of the classified error must not show. The SQL stays as it is.
    """

    message: str
    exceptions: tuple[str, ...] = ()
    status: str = "error"
    command: str = ""
    adapter: str = ""
    node: str | None = None
    resource_type: str = ""
    materialized: str = ""
    language: str = "sql"
    file: str | None = None
    raw_code: str | None = None
    compiled_code: str | None = None
    failures: int | None = None
    known_names: tuple[str, ...] = ()
    target: str = ""
    secrets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """What is made of the message is stored as JSON."""
        msgspec.structs.force_setattr(self, "message", escaped(self.message))
