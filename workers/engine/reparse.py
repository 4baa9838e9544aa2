"""A changed var set on a project that was parsed before: what read none of the changed vars is kept.

dbt parses the whole project when ``--vars`` differ. Here a parse is kept together with what each part of the
project looked at (`reads`), and other vars mean:

1. Parts that looked at no changed var are kept.
2. The others are rendered again (`probe`); whoever's parse gives the same is kept as well.
3. What is left is parsed again by dbt's own partial parsing, which is told of the changed files and entries as of
   changed environment variables.

Whatever of this cannot be proven ends in None: a full parse.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import dbt.parser.manifest
import jinja2
import msgspec
from dbt.cli import requires
from dbt.config.runtime import RuntimeConfig
from dbt.contracts.graph.manifest import Manifest
from dbt.parser.manifest import ManifestLoader
from dbt_common.dataclass_schema import ValidationError
from dbt_common.events.base_types import EventMsg
from dbt_common.events.event_manager_client import get_event_manager
from dbt_common.exceptions import DbtBaseException

from workers.engine.limits import TimeLimitError
from workers.engine.reads import (
    PROJECT,
    VOLATILE,
    ChangedFileError,
    Recorder,
    Seen,
    Unit,
    replaced,
    touched,
    watching,
)
from workers.engine.warned import Warnings

_KEYS = frozenset({"models", "seeds", "snapshots", "sources", "analyses"})
"""Entries of YAML files that are parsed again one by one."""

_MARK = "DBT_RELAY_CHANGED_VAR"
_COLLECTIONS = (
    "nodes", "sources", "exposures", "metrics", "groups", "semantic_models", "saved_queries", "unit_tests",
    "functions", "macros", "docs", "disabled", "fixtures",
)  # fmt: skip
_OTHERS_LOOK_AT = (
    "access", "group", "version", "latest_version", "deprecation_date", "name", "is_ephemeral_model",
)  # fmt: skip
"""What the parse of other nodes looks at of a node that they refer to."""


class Base(msgspec.Struct, frozen=True):
    """What is kept of a parse for other var sets.

    Attributes:
        key: of its context.
        vars: digest of each var's value.
        project: digest of the rendered project files, profile, catalogs.
        seen: whatever looked at anything.
        warned: what dbt warned of while it parsed.
    """

    key: str
    vars: dict[str, str]
    project: str
    seen: list[Seen]
    warned: Warnings = msgspec.field(default_factory=Warnings)


class Reparsed(msgspec.Struct):
    """The manifest for other vars: the very same, or another.

    Attributes:
        seen, warned: see `Base`.
        said: what dbt said while it parsed.
    """

    manifest: Manifest
    same: bool
    seen: list[Seen]
    said: list[EventMsg]
    warned: Warnings


class _NotProvenError(Exception):
    """Only a full parse can tell."""


_DOUBTS = (
    _NotProvenError, ChangedFileError, DbtBaseException, jinja2.TemplateError, ValidationError, AssertionError,
    AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
)  # fmt: skip
"""What a parse of dbt's ends with, of all that may be raised here (an interruption is raised by another thread)."""


def digests(values: Mapping[str, Any]) -> dict[str, str]:
    """A digest of each var's value; the order within mappings counts, as templates can see it."""
    return {name: hashlib.sha256(repr(value).encode()).hexdigest()[:32] for name, value in values.items()}


def project_digest(config: RuntimeConfig, catalogs: Any) -> str:
    """A digest of what the project's and its packages' dbt_project.yml, the profile and so on say, rendered."""
    said: list[Any] = [repr(catalogs), config.credentials.to_dict(), config.to_target_dict(), config.threads]
    for name, project in sorted(config.load_dependencies().items()):
        said += [name, project.to_project_config(with_packages=True), project.manifest_selectors]
    return hashlib.sha256(repr(said).encode()).hexdigest()


def changed_vars(old: Mapping[str, str], new: Mapping[str, str]) -> set[str]:
    """Names whose value is another, or that only one of both has."""
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def reparse(
    base: Base, parsed: Manifest, click_context: Any, config: RuntimeConfig, fresh: Callable[[], Manifest]
) -> Reparsed | None:
    """The manifest of `base`'s project with the vars of `config`; None if that takes a full parse.

    Args:
        parsed: the manifest of `base`. It is not changed.
        fresh: gives another copy of it, as dbt's partial parsing would load it.
    """
    given = digests(config.cli_vars)
    again = Recorder()
    said: list[EventMsg] = []
    try:
        with aside() as said, watching(config, recorder := Recorder()):
            differ = _differing(base, parsed, config, recorder, changed_vars(base.vars, given))
        if any(msg.info.level in {"info", "warn", "error"} for msg in said):
            return None  # a template has something to say, and all of them say it in a full parse
        if differ and base.warned.any:  # which of the warnings are of what is kept is not known
            raise _NotProvenError
        if differ:
            with aside() as said, watching(config, again):
                manifest = _partially(parsed, fresh(), differ, click_context)
            if again.whole:
                return None
            _prove(parsed, manifest)
        if digests(config.cli_vars) != given:
            return None  # a template changed a var's value, and who read it when is anybody's guess
    except TimeLimitError:
        raise
    except _DOUBTS:
        return None
    if not differ:
        return Reparsed(parsed, True, _merged(base.seen, recorder), [], base.warned)
    entered = {_entry(unit) for unit in again.entered}
    kept = [seen for seen in base.seen if seen.unit == PROJECT or _entry(seen.unit) not in entered]
    return Reparsed(manifest, False, [*_merged(kept, recorder), *again.units()], said, again.warned.warnings)


def _differing(
    base: Base, parsed: Manifest, config: RuntimeConfig, recorder: Recorder, changed: set[str]
) -> set[Unit]:
    """The files and entries whose parse would be another.

    Raises:
        _NotProvenError
    """
    from workers.engine.probe import (
        Prober,  # needs more of dbt's parser than a release without `changed-vars` may have
    )

    differ: set[Unit] = set()
    prober: Prober | None = None
    for seen in base.seen:
        late = touched(seen.late, changed) or bool(seen.late_names & VOLATILE)
        if not late and not touched(seen.vars, changed) and not seen.names & VOLATILE:
            continue
        if seen.unit == PROJECT:
            raise _NotProvenError
        prober = prober or Prober(parsed, config, recorder)
        if late or not prober.same(seen):
            differ.add(_entry(seen.unit))
    return differ


def _entry(unit: Unit) -> Unit:
    return Unit(unit.file, unit.key, unit.name)


def _merged(old: Iterable[Seen], probed: Recorder) -> list[Seen]:
    """What was seen, with what was seen again in place of what was seen before."""
    result = []
    for seen in old:
        again = probed.seen.get(seen.unit)
        if again is None or seen.unit == PROJECT:
            result.append(seen)
        else:  # it was rendered again, and what follows was not
            result.append(
                msgspec.structs.replace(seen, vars=again.vars, names=again.names, outputs=again.outputs)
            )
    return result


def _partially(parsed: Manifest, copy: Manifest, differ: set[Unit], click_context: Any) -> Manifest:
    """Let dbt parse the files and entries that differ again, as if they read a changed environment variable.

    dbt.parser.partial.PartialParsing.build_env_vars_to_files finds them; a variable that was set and is not is a
    changed one.

    Raises:
        _NotProvenError: dbt's partial parsing is known to leave something behind.
    """
    if parsed.metrics or parsed.semantic_models or parsed.saved_queries:
        raise _NotProvenError  # they hold names of relations, and dbt does not look at them again
    copy.env_vars[_MARK] = "1"
    for unit in differ:
        file: Any = copy.files.get(unit.file)
        if file is None or (unit.key and unit.key not in _KEYS):
            raise _NotProvenError
        if unit.key:
            file.env_vars.setdefault(unit.key, {}).setdefault(unit.name, []).append(_MARK)
        else:
            file.env_vars.append(_MARK)
    if any(source.get("overrides") for file in copy.files.values() for source in _sources(file)):
        raise _NotProvenError

    class Loader(ManifestLoader):
        def read_manifest_for_partial_parse(self) -> Manifest:
            return copy

        def write_manifest_for_partial_parse(self) -> None:
            pass

    click_context.obj.pop("manifest", None)
    with replaced(dbt.parser.manifest, "ManifestLoader", Loader):
        requires.setup_manifest(click_context, write=False)
    manifest: Manifest = click_context.obj["manifest"]
    for name in _COLLECTIONS:
        mine: Any = getattr(manifest, name, None)
        before: Any = getattr(parsed, name, None)
        if isinstance(mine, dict) and mine.keys() == before.keys():
            setattr(manifest, name, {key: mine[key] for key in before})  # in a full parse's order
            flat = manifest.flat_graph.get(name)
            if isinstance(flat, dict):  # before dbt-core 1.12
                manifest.flat_graph[name] = {key: flat[key] for key in before if key in flat}
    if not isinstance(manifest.flat_graph.get("nodes"), dict):
        manifest.build_flat_graph()
    return manifest


def _sources(file: Any) -> list[dict[str, Any]]:
    found = getattr(file, "dfy", None) or {}
    return [source for source in found.get("sources") or [] if isinstance(source, dict)]


def _prove(before: Manifest, after: Manifest) -> None:
    """Refuse what dbt's partial parsing would have to carry on to nodes that it kept.

    Raises:
        _NotProvenError
    """
    for name in _COLLECTIONS:
        old, new = getattr(before, name, {}), getattr(after, name, {})
        if old.keys() != new.keys():
            raise _NotProvenError  # something is enabled or disabled
    if any(len(after.disabled[name]) != len(nodes) for name, nodes in before.disabled.items()):
        raise _NotProvenError
    tested = {node for test in after.unit_tests.values() for node in test.depends_on.nodes}
    for unique_id, node in after.nodes.items():
        if node.created_at == before.nodes[unique_id].created_at or str(node.resource_type) == "test":
            continue
        if unique_id in tested:
            raise _NotProvenError
        if any(
            getattr(node, name, None) != getattr(before.nodes[unique_id], name, None)
            for name in _OTHERS_LOOK_AT
        ):
            raise _NotProvenError


def say(said: Iterable[EventMsg]) -> None:
    """Say what was kept `aside`."""
    for msg in said:
        for callback in get_event_manager().callbacks:
            callback(msg)


@contextlib.contextmanager
def aside() -> Iterator[list[EventMsg]]:
    """Keep what dbt and templates say within from everybody.

    Raises:
        _NotProvenError: a template printed something.
    """
    manager = get_event_manager()
    said: list[EventMsg] = []
    loggers, callbacks = manager.loggers, manager.callbacks
    manager.loggers, manager.callbacks = [], [said.append]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            yield said
    finally:
        manager.loggers, manager.callbacks = loggers, callbacks
    if printed.getvalue():
        raise _NotProvenError
