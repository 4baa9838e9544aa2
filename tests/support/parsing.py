"""Parses a project with one var set after the other, and compares the manifests with those of full parses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from dbt.deprecations import active_deprecations

from tests.support.engine import Shared, spec_for
from tests.support.reading_projects import MACROS, PROFILES
from workers.engine.engine import CommandFailedError, Engine

OF_AN_INVOCATION = {"created_at", "generated_at", "invocation_id", "invocation_started_at", "run_started_at"}

START = {
    "profiles.yml": PROFILES, "macros/all.sql": MACROS, "models/leaf.sql": "select 1 as id",
    "models/other.sql": "select 1 as id",
    "dbt_project.yml": "{name: reading, version: '1.0', profile: reading, flags: {send_anonymous_usage_stats: false}}",
}  # fmt: skip


def write(project: Path, files: Mapping[str, Any]) -> None:
    for name, text in files.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))


class Parsing:
    """An engine that parses a project with one var set after the other."""

    def __init__(self, project: Path, *args: str) -> None:
        self.project, self.args = project, args
        self.shared = Shared()
        self.engine = Engine(self.shared)
        self.logged: list[str] = []

    def manifest(self, values: Mapping[str, Any], *more: str) -> Any:
        """The manifest as JSON, in its order; or dbt's error text."""
        args = ("run", *self.args, "--vars", json.dumps(values), *more)
        spec = spec_for(self.project, *args)
        events: list[Any] = []
        try:
            key = self.engine.plan(spec, events.append).facts.context_key
        except CommandFailedError as error:
            return str(error)
        finally:
            self.logged = [event.text for event in events if event.text]
            self.engine.forget(spec.run_id)
        found = self.engine._contexts._contexts[key].manifest
        return plain(found.writable_manifest().to_dict(omit_none=False, context={"artifact": True}))

    def lines(self) -> list[str]:
        """The lines of the last parse without times and dbt's reason for a full parse, and its deprecations."""
        logged = [
            re.sub(r"\d\d:\d\d:\d\d", "", line) for line in self.logged if "partial pars" not in line.lower()
        ]
        return [*logged, *(f"{name}: {count}" for name, count in active_deprecations.items())]

    def how(self, values: Mapping[str, Any], *more: str) -> str:
        """What was parsed for these vars: see `manifest_and_how`."""
        return self.manifest_and_how(values, *more)[1]

    def manifest_and_how(self, values: Mapping[str, Any], *more: str) -> tuple[Any, str]:
        """The manifest as `manifest` returns it, and what was parsed for it: ``kept`` (nothing), ``partial``, ``whole``."""
        saved, before = self.project / "target" / "partial_parse.msgpack", self.shared.parses
        saved.unlink(missing_ok=True)
        found = self.manifest(values, *more)
        if saved.exists() or isinstance(found, str):
            return found, "whole"
        return found, "kept" if self.shared.parses == before else "partial"


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items() if name not in OF_AN_INVOCATION}
    return [plain(each) for each in value] if isinstance(value, (list, tuple, set)) else str(value)


def whole(project: Path, values: Mapping[str, Any]) -> Any:
    return Parsing(project, "--no-partial-parse").manifest(values)


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            yield from differences(one.get(name), other.get(name), f"{path}/{name}")
    elif one != other:
        yield f"{path}: {one!r} != {other!r}"
