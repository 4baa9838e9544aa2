"""Writes manifest.json of a run from cached JSON.

dbt serializes its whole manifest after every command, although a run changes only a few nodes. So a context caches
the JSON of each parsed entry, and a run serializes only the nodes that it changed.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import msgspec
from dbt.contracts.graph.manifest import Manifest
from dbt_common.utils.encoding import JSONEncoder

from workers.engine.template_state.calls import as_parsed

_ARTIFACT = {"artifact": True}  # serialization context, as in dbt.artifacts.schemas.base.Writable.write
_dbt = JSONEncoder()


def _encode(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value, enc_hook=_plain))


def _plain(value: Any) -> Any:
    # string types of dbt and Jinja; dbt's encoder handles all other types
    return str(value) if isinstance(value, str) else _dbt.default(value)


_CHANGED = (
    "nodes", "unit_tests", "functions", "sources", "exposures", "metrics", "groups", "semantic_models", "saved_queries",
)  # fmt: skip
"""Sections whose entries a run may change: by compiling nodes, or from templates."""


class ManifestFile:
    """Cached JSON of a parsed manifest, by section and entry."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._sections: dict[str, msgspec.Raw | dict[str, msgspec.Raw]] | None = None

    def render(self, manifest: Manifest, changed: set[str]) -> bytes:
        """Return manifest.json of a run.

        Args:
            manifest: the run's manifest: its metadata and its copies of changed nodes.
            changed: unique ids of entries to serialize again.
        """
        sections: dict[str, Any] = dict(self._parsed())
        metadata: Any = manifest.metadata
        sections["metadata"] = _encode(metadata.to_dict(omit_none=False, context=_ARTIFACT))
        for name in _CHANGED:
            if name not in sections:  # functions: dbt-core >= 1.11
                continue
            parsed, entries = sections[name], getattr(manifest, name)
            encoded = {
                unique_id: _encode(
                    entries[unique_id].to_resource().to_dict(omit_none=False, context=_ARTIFACT)
                )
                for unique_id in changed
                if unique_id in entries
            }
            sections[name] = {**parsed, **encoded}
        return msgspec.json.encode(sections)

    def _parsed(self) -> dict[str, msgspec.Raw | dict[str, msgspec.Raw]]:
        if self._sections is None:
            with as_parsed():
                plain: Any = self._manifest.writable_manifest().to_dict(omit_none=False, context=_ARTIFACT)
            self._sections = {
                name: {key: _encode(entry) for key, entry in value.items()}
                if isinstance(value, dict)
                else _encode(value)
                for name, value in plain.items()
            }
        return self._sections


def write_bytes(path: str, content: bytes) -> None:
    """Replace a file atomically: a reader sees the old content or the new one.

    Raises:
        OSError: the file cannot be written (disk full, …). Contains the path.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise OSError(error.errno, error.strerror, path) from error


def write_json(path: str, plain: dict[str, Any]) -> None:
    """Replace a JSON file atomically. See `write_bytes`."""
    write_bytes(path, json.dumps(plain).encode())
