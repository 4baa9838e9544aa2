"""A profiles.yml that leads to a copy of the warehouse, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from workers.engine.project.profile import Target

_OTHER_NAMES = {"dbname": ("database",), "path": ()}
"""Names that a profile may use in place of one that is set (dbt's credential aliases)."""


def write_profiles(folder: Path, targets: Iterable[Target], changes: Mapping[str, Any]) -> None:
    """Write profiles.yml into a new `folder`, for this user's eyes alone.

    It has the targets that the commands use, as they stand in the user's file (what they read from the
    environment, secrets among it, stays unread), but for `changes`. Every other target is left out, so that
    no command reaches a warehouse that is no copy.
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
