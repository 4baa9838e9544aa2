"""manifest.json of a run, written from what is known already.

dbt turns its whole manifest into JSON after every command. All but a few nodes of it are as they were
parsed, so a context keeps each entry's JSON, and a run encodes the nodes that it compiled.
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

_ARTIFACT = {"artifact": True}  # as dbt.artifacts.schemas.base.Writable.write asks for
_dbt = JSONEncoder()


def _encode(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value, enc_hook=_plain))


def _plain(value: Any) -> Any:
    # the string types of dbt and Jinja; dbt's own encoder knows the rest
    return str(value) if isinstance(value, str) else _dbt.default(value)


_CHANGED = (
    "nodes", "unit_tests", "functions", "sources", "exposures", "metrics", "groups", "semantic_models", "saved_queries",
)  # fmt: skip
"""Sections of which a run may change entries: nodes by compiling them, others by templates that get at them."""


class ManifestFile:
    """The JSON of a parsed manifest, entry by entry."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._sections: dict[str, msgspec.Raw | dict[str, msgspec.Raw]] | None = None

    def render(self, view: Manifest, changed: set[str]) -> bytes:
        """The manifest with a run's own metadata and its own copies of the `changed` nodes."""
        sections: dict[str, Any] = dict(self._parsed())
        metadata: Any = view.metadata
        sections["metadata"] = _encode(metadata.to_dict(omit_none=False, context=_ARTIFACT))
        for name in _CHANGED:
            if name not in sections:  # functions: dbt-core >= 1.11
                continue
            known, own = sections[name], getattr(view, name)
            ours = {
                unique_id: _encode(own[unique_id].to_resource().to_dict(omit_none=False, context=_ARTIFACT))
                for unique_id in changed
                if unique_id in own
            }
            sections[name] = {**known, **ours}
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
    """Write an artifact so that a reader sees the old one or the new one, never half of it.

    Raises:
        OSError: the disk is full …, with the path.
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
    """See `write_bytes`."""
    write_bytes(path, json.dumps(plain).encode())
