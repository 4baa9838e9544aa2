"""The levels of a project's config (``models:``, ``seeds:``, …) in dbt_project.yml that contain Jinja.

dbt merges the config of a node from the levels on the way to its fully qualified name, ``models``, ``models.shop``,
``models.shop.marts``, of the node's own project and of the root project. So a level is treated as a var:
it has a digest, and a file or entry whose parse reads the level is parsed again if the digest changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from dbt.config.runtime import RuntimeConfig

from workers.engine.project.recorded_vars import EVERYTHING

SECTIONS = (
    "models", "seeds", "snapshots", "sources", "data_tests", "unit_tests", "exposures", "analyses", "functions",
    "metrics", "semantic_models", "saved_queries",
)  # fmt: skip
"""Attributes of a project that dbt.context.context_config.RenderedConfig looks up configs in."""

_Path = tuple[str, ...]


class ConfigLevels:
    """The levels of a project and its packages.

    Attributes:
        digests: digest of each level that contains Jinja, as rendered, by the level's name.
        constant: the other levels, by project and section.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        self.digests: dict[str, str] = {}
        self.constant: list[Any] = []
        self._config = config  # keeps the sections alive, which are known by their ids
        self._sections: dict[int, list[tuple[_Path, str]]] = {}
        for project, found in sorted(config.load_dependencies().items()):
            raw = found.unrendered.project_dict
            for section in SECTIONS:
                rendered = getattr(found, section, None)
                if rendered:
                    as_written = raw.get(section) or raw.get(section.replace("_", "-"))
                    if as_written is not None:
                        self._sections[id(as_written)] = []  # dbt reads the config as written, too
                    self._add(project, section, rendered, as_written)

    def names(self, section: Any, fqn: Sequence[str]) -> Iterator[str]:
        """Names of the levels that a lookup of a node's config in a section passes; `EVERYTHING` for an unknown section."""
        levels = self._sections.get(id(section))
        if levels is None:
            if section:
                yield EVERYTHING
            return
        for path, name in levels:
            if tuple(fqn[: len(path)]) == path:
                yield name

    def _add(self, project: str, section: str, rendered: Any, as_written: Any) -> None:
        levels: list[tuple[_Path, str]] = []
        constant: list[Any] = []
        for path, values, raw in _levels((), rendered, as_written):
            if repr(values) == repr(raw):
                constant.append((path, values))
            else:
                name = f"{_MARK} {project} {section} {path!r}"
                levels.append((path, name))
                constant.append((path, name))
                self.digests[name] = hashlib.sha256(repr(values).encode()).hexdigest()[:32]
        self._sections[id(rendered)] = levels
        self.constant.append((project, section, constant))


_MARK = "\0config"
"""Prefix of the names of levels, which keeps them apart from names of vars."""


def _levels(path: _Path, rendered: Any, raw: Any) -> Iterator[tuple[_Path, dict[Any, Any], Any]]:
    """Path of each level, its keys as rendered, and as written. A dict under a key without ``+`` is a level of its own."""
    if not isinstance(rendered, dict) or not isinstance(raw, dict):
        yield path, {"": rendered}, {"": raw}
        return
    below = [key for key, value in raw.items() if isinstance(value, dict) and not _is_config(key)]
    below = [key for key in below if isinstance(rendered.get(key), dict)]
    yield (
        path,
        {key: value for key, value in rendered.items() if key not in below},
        {key: value for key, value in raw.items() if key not in below},
    )
    for key in below:
        yield from _levels((*path, key), rendered[key], raw[key])


def _is_config(key: Any) -> bool:
    return str(key).startswith("+")
