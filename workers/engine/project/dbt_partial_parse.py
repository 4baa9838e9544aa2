"""Lets dbt's own partial parsing parse chosen files and entries again."""

from __future__ import annotations

from typing import Any

import dbt.parser.manifest
from dbt.cli import requires
from dbt.contracts.files import ParseFileType
from dbt.contracts.graph.manifest import Manifest
from dbt.parser.hooks import HookParser
from dbt.parser.manifest import ManifestLoader
from dbt.parser.read_files import load_source_file
from dbt.parser.search import FileBlock

from workers.engine.project.dependents import KEYS, NotProvenError, is_hook
from workers.engine.project.parse_units import Unit
from workers.engine.project.parse_watching import replaced

_MARK = "DBT_RELAY_CHANGED_VAR"
"""An environment variable that no template reads. dbt parses the files again that are marked as its readers."""


def parse_again(parsed: Manifest, copy: Manifest, units: set[Unit], click_context: Any) -> Manifest:
    """Let dbt parse files, entries of YAML files and hooks again, and keep the rest.

    Files and entries are marked as if they had read a changed environment variable, which is how
    dbt.parser.partial.PartialParsing.build_env_vars_to_files finds them. dbt itself never parses hooks again.

    Args:
        parsed: the manifest as it is. It is not changed.
        copy: another copy of it, as dbt's partial parsing would load it. It is changed.

    Raises:
        NotProvenError: dbt's partial parsing is known to leave something behind.
    """
    if parsed.metrics or parsed.semantic_models or parsed.saved_queries:
        raise NotProvenError  # they hold names of relations, and dbt does not look at them again
    if any(source.get("overrides") for file in copy.files.values() for source in _sources(file)):
        raise NotProvenError
    copy.env_vars[_MARK] = "1"
    hooks: set[str] = set()
    for unit in units:
        file: Any = copy.files.get(unit.file)
        if file is None and _remove_hooks(copy, unit.file):
            hooks.add(unit.file.split("://", 1)[0])
        elif file is None or (unit.key and unit.key not in KEYS):
            raise NotProvenError(f"dbt cannot parse it again: {unit}")
        elif unit.key:
            file.env_vars.setdefault(unit.key, {}).setdefault(unit.name, []).append(_MARK)
        else:
            file.env_vars.append(_MARK)
    click_context.obj.pop("manifest", None)
    with replaced(dbt.parser.manifest, "ManifestLoader", _loader(copy, hooks)):
        requires.setup_manifest(click_context, write=False)
    manifest: Manifest = click_context.obj["manifest"]
    return manifest


def _loader(copy: Manifest, hooks: set[str]) -> type[ManifestLoader]:
    """dbt's loader, which starts from a manifest in memory and parses the hooks of these projects as well."""

    class Loader(ManifestLoader):
        def read_manifest_for_partial_parse(self) -> Manifest:
            return copy

        def write_manifest_for_partial_parse(self) -> None:
            pass

        def safe_update_project_parser_files_partially(self, project_parser_files: Any) -> Any:
            files = super().safe_update_project_parser_files_partially(project_parser_files)
            if hooks and self.skip_parsing:
                self.skip_parsing, self.partially_parsing, files = False, True, {}
                copy.build_parent_and_child_maps()
                copy.build_group_map()
            return {**{name: {} for name in hooks}, **files}

        def parse_project(self, project: Any, parser_files: Any, parser_types: Any) -> None:
            super().parse_project(project, parser_files, parser_types)
            if self.partially_parsing and HookParser in parser_types and project.project_name in hooks:
                parser = HookParser(project, self.manifest, self.root_project)
                file: Any = load_source_file(parser.get_path(), ParseFileType.Hook, project.project_name, {})
                parser.parse_file(FileBlock(file))

    return Loader


def _remove_hooks(manifest: Manifest, file: str) -> bool:
    """Remove the hooks of a dbt_project.yml. Returns whether there were any."""
    enabled = [node.unique_id for node in manifest.nodes.values() if is_hook(node) and node.file_id == file]
    for unique_id in enabled:
        del manifest.nodes[unique_id]
    disabled = [
        unique_id
        for unique_id, members in manifest.disabled.items()
        if any(is_hook(member) and member.file_id == file for member in members)
    ]
    for unique_id in disabled:
        del manifest.disabled[unique_id]
    return bool(enabled or disabled)


def _sources(file: Any) -> list[dict[str, Any]]:
    found = getattr(file, "dfy", None) or {}
    return [source for source in found.get("sources") or [] if isinstance(source, dict)]
