"""Writes a profiles.yml whose only targets are on a copy of the warehouse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from workers.engine.project.profile import Target

_OTHER_NAMES = {"dbname": ("database",), "path": ()}
"""Changed name → names that a profile may use instead (dbt's credential aliases)."""


def write_profiles(folder: Path, targets: Iterable[Target], changes: Mapping[str, Any]) -> None:
    """Write profiles.yml into a new `folder` that only this user can read.

    It has the targets that the commands use, with `changes`. They are taken unrendered from the user's file, so
    that no secret of the environment is written. Other targets are left out, so that no command reaches the
    original warehouse.
    """
    file: dict[str, Any] = {}
    for target in targets:
        if "config" in target.file:
            file["config"] = target.file["config"]
        original = target.file[target.profile]
        profile = file.setdefault(target.profile, {**original, "outputs": {}})
        output = dict(original["outputs"][target.name])
        for name, value in changes.items():
            for other in _OTHER_NAMES.get(name, ()):
                output.pop(other, None)
            output[name] = value
        profile["outputs"][target.name] = output
    folder.mkdir(mode=0o700, parents=True)
    (folder / "profiles.yml").write_text(yaml.safe_dump(file, sort_keys=False, allow_unicode=True), "utf-8")
