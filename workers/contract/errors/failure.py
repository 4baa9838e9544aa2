"""The facts about a failure: the input of `classify`."""

from __future__ import annotations

import msgspec

from workers.contract.credentials import escaped


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about one failure, as the engine recorded them.

    Attributes:
        message: dbt's text: ``RunResult.message``, or ``str(exception)``.
        exceptions: class names of the exception, its bases and then its causes
            (``__cause__``/``__context__``), as ``("CompilationError", "DbtRuntimeError", …)``.
        status: dbt's status of the node (`dbt.artifacts.schemas.results.NodeStatus`).
        command: dbt's sub-command: run, build, deps ….
        adapter: dbt's name of the adapter: duckdb, postgres …; empty where unknown.
        node: dbt's unique id.
        resource_type: model, test, unit_test, seed, snapshot, operation (a hook), source ….
        materialized: of a model: table, view, incremental ….
        language: sql or python.
        file: the node's ``original_file_path``.
        raw_code: the node's code in `file`.
        compiled_code: the code that dbt compiled from it.
        failures: number of failing rows of a test.
        known_names: names of models, seeds, snapshots and sources, which a misspelt reference may mean. Give unique
            ids where possible: they also say whether the node is a model or a seed.
        target: dbt's target folder.
        secrets: values to mask in message, detail and suggested fix of the classified error. The SQL is not masked.
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
        """Escape what UTF-8 cannot encode: parts of the message are stored as JSON."""
        msgspec.structs.force_setattr(self, "message", escaped(self.message))
