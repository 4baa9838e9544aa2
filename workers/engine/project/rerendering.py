"""Renders parts of a project again with other vars, to see whether their parse would return the same.

Most vars that a model reads during its parse end in its SQL, which a parse does not keep. What a parse keeps of
rendering (config, refs, sources, macros) is in `UnitReads.outputs`: equal outputs mean equal nodes.
"""

from __future__ import annotations

import copy
from typing import Any

import dbt.parser.manifest
from dbt.adapters.factory import get_adapter_package_names
from dbt.clients.jinja import add_rendered_test_kwargs, get_rendered
from dbt.config.runtime import RuntimeConfig
from dbt.context.context_config import ContextConfig
from dbt.context.macro_resolver import MacroResolver
from dbt.context.providers import generate_test_context
from dbt.contracts.files import ParseFileType, parse_file_type_to_parser
from dbt.contracts.graph.manifest import Manifest, ParsingInfo
from dbt.parser.read_files import load_source_file
from dbt.parser.search import FileBlock

from workers.engine.patches.frozen_macros import freeze_macros
from workers.engine.project.parse_reads import OF_THE_NODE, ChangedFileError, Recorder, UnitReads
from workers.engine.project.parse_units import Unit


class Rerenderer:
    """Renders units of a parsed project with the vars of `config`, inside `parse_watching.watching`.

    Neither the parsed manifest nor anything of dbt's is changed.
    """

    def __init__(self, parsed: Manifest, config: RuntimeConfig, recorder: Recorder) -> None:
        self._parsed, self._config, self._recorder = parsed, config, recorder
        self._scratch = Manifest(macros=parsed.macros, metadata=parsed.metadata)
        self._scratch._parsing_info = ParsingInfo()
        freeze_macros(self._scratch)
        self._parsers: dict[tuple[str, str], Any] = {}
        internal = get_adapter_package_names(config.credentials.type)
        self._resolver = MacroResolver(parsed.macros, config.project_name, internal)

    def same(self, seen: UnitReads) -> bool:
        """Whether rendering the unit's code returns what it returned in the kept parse.

        Raises:
            ChangedFileError: its file has changed.
            Exception: any error of rendering.
        """
        unit = seen.unit
        if unit.node:
            if seen.names & OF_THE_NODE or unit.node not in self._parsed.nodes:
                return False
            self._render_test(unit)
        elif unit.key:
            return False  # a parse keeps the rendered YAML
        else:
            self._parse(unit)
        again = self._recorder.seen.get(unit)
        if again is None or self._scratch.env_vars.keys() - self._parsed.env_vars.keys():
            return False
        return again.outputs == seen.outputs

    def _parse(self, unit: Unit) -> None:
        """Parse a file (or a project's hooks) up to where its code is rendered."""
        known: Any = self._parsed.files.get(unit.file)
        package, path = unit.file.split("://", 1)
        project = self._config.load_dependencies()[package]
        if known is None:  # dbt keeps no file of hooks
            parser = self._parser("HookParser", project)
            known_path, kind = parser.get_path(), ParseFileType.Hook
        else:
            parser = self._parser(parse_file_type_to_parser[known.parse_file_type], project)
            known_path, kind = known.path, known.parse_file_type
        file: Any = load_source_file(known_path, kind, package, {})
        if known is not None and file.checksum != known.checksum:
            raise ChangedFileError(path)
        self._scratch.files = {unit.file: file}
        parser.parse_file(FileBlock(file))

    def _parser(self, name: str, project: Any) -> Any:
        parser = self._parsers.get((name, project.project_name))
        if parser is None:
            parser = _without_results(getattr(dbt.parser.manifest, name), self._recorder)(
                project, self._scratch, self._config
            )
            self._parsers[name, project.project_name] = parser
        return parser

    def _render_test(self, unit: Unit) -> None:
        """As dbt.parser.schema_generic_tests.SchemaGenericTestParser.render_test_update."""
        node: Any = copy.copy(self._parsed.nodes[unit.node])
        node.refs, node.sources, node.metrics = [], [], []
        if hasattr(node, "functions"):  # dbt-core >= 1.11
            node.functions = []
        node.depends_on = type(node.depends_on)(macros=node.depends_on.macros[:1])  # its own macro
        # ref() and source() return the node's own relation, which has its final name only after the parse
        node.database, node.schema = self._config.credentials.database, self._config.credentials.schema
        node.alias = node.name
        self._scratch.files = {node.file_id: copy.deepcopy(self._parsed.files[node.file_id])}
        config = ContextConfig(self._config, node.fqn, node.resource_type, node.package_name)
        with self._recorder.within(unit):
            context = generate_test_context(node, self._config, self._scratch, config, self._resolver)
            add_rendered_test_kwargs(context, node, capture_macros=True)
            get_rendered(node.raw_code, context, node, capture_macros=True)
            self._recorder.rendered(node)
            with self._recorder.late():
                pass  # what follows is not rendered again


def _without_results(base: Any, recorder: Recorder) -> Any:
    class WithoutResults(base):  # type: ignore[misc]
        def parse_from_dict(self, dct: Any, validate: bool = True) -> Any:  # noqa: ARG002 - dbt's
            return super().parse_from_dict(dct, validate=False)  # it was, when it was parsed

        def update_parsed_node_config(self, parsed_node: Any, *_: Any, **__: Any) -> None:
            recorder.rendered(parsed_node)
            with recorder.late():
                pass  # what follows is not rendered again

        def add_result_node(self, *_: Any) -> None:
            pass

    WithoutResults.__name__ = base.__name__
    return WithoutResults
