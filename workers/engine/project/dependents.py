"""Finds what has to be parsed again because a node changed that it refers to.

dbt's partial parsing keeps a file that did not change, even if it refers to a node that is now disabled, renamed or
private. A full parse processes such a file again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from dbt.contracts.files import ParseFileType, SchemaSourceFile, SourceFile
from dbt.contracts.graph.manifest import Manifest

from workers.engine.project.parse_units import Unit

KEYS = frozenset(
    {"models", "seeds", "snapshots", "sources", "analyses", "exposures", "unit_tests", "data_tests"}
)
"""Entries of YAML files that are parsed again one by one."""

_MOVING = ("nodes", "sources", "exposures", "unit_tests")
"""Collections of the manifest whose members may be enabled or disabled."""

_COLLECTIONS = (
    *_MOVING, "metrics", "groups", "semantic_models", "saved_queries", "functions", "macros", "docs", "fixtures",
)  # fmt: skip
_READ_BY_OTHERS = (
    "access", "group", "version", "latest_version", "deprecation_date", "name", "is_ephemeral_model",
)  # fmt: skip
"""Attributes of a node that the parse of nodes that refer to it reads."""


class NotProvenError(Exception):
    """Only a full parse gives a result that is known to be right."""


def not_parsed_again(before: Manifest, after: Manifest, began: float) -> set[Unit]:
    """The files and entries that refer to a changed node, and that dbt did not parse again.

    Args:
        before, after: the manifests before and after the partial parse.
        began: when the partial parse began, seconds since the epoch.

    Raises:
        NotProvenError: something changed that no file or entry of `KEYS` determines.
    """
    _put_back(before, after, began)
    _drop_left_behind(before, after, began)
    _require_same_members(before, after)
    refs: set[str] = set()
    tested: set[str] = set()
    sources: set[tuple[str, str]] = set()
    for unique_id in before.sources.keys() ^ after.sources.keys():
        source: Any = before.sources.get(unique_id) or after.sources[unique_id]
        sources.add((source.source_name, source.name))
    for unique_id in before.nodes.keys() | after.nodes.keys():
        old: Any = before.nodes.get(unique_id)
        new: Any = after.nodes.get(unique_id)
        node = new or old
        if str(node.resource_type) == "test" or (old and new and new.created_at < began):
            continue
        tested.add(node.name)
        if not old or not new or any(_differs(old, new, name) for name in _READ_BY_OTHERS):
            refs.add(node.name)
    return {
        _unit(part, after)
        for part in _parts(after)
        if part.created_at < began and _refers_to(part, refs, sources, tested)
    }


def with_descriptions(manifest: Manifest, units: set[Unit]) -> set[Unit]:
    """`units` and the entries that describe singular tests among them: dbt parses such a test again without its entry."""
    singular = {
        (file.project_name, unique_id.split(".")[2])
        for file in map(manifest.files.get, {unit.file for unit in units if not unit.key})
        if isinstance(file, SourceFile) and file.parse_file_type == ParseFileType.SingularTest
        for unique_id in file.nodes
    }
    if not singular:
        return units
    return units | {
        Unit(file.file_id, "data_tests", entry["name"])
        for file in manifest.files.values()
        if isinstance(file, SchemaSourceFile)
        for entry in (file.dfy or {}).get("data_tests") or ()
        if (file.project_name, entry.get("name")) in singular
    }


def in_order(manifest: Manifest, before: Manifest, order: Iterable[str]) -> None:
    """Put the members of the manifest's collections in the order of a full parse.

    Args:
        order: unique ids in the order in which the full parse of the project added them.

    Raises:
        NotProvenError: it did not add one of them.
    """
    places = {unique_id: place for place, unique_id in enumerate(order)}
    for name in (*_COLLECTIONS, "disabled"):
        mine: Any = getattr(manifest, name, None)
        old: Any = getattr(before, name, None)
        if not isinstance(mine, dict):
            continue
        if mine.keys() == old.keys():
            setattr(manifest, name, {key: mine[key] for key in old})
        elif not mine.keys() <= places.keys():
            raise NotProvenError
        else:
            setattr(manifest, name, {key: mine[key] for key in sorted(mine, key=places.__getitem__)})
    manifest.build_parent_and_child_maps()
    manifest.build_flat_graph()


def _put_back(before: Manifest, after: Manifest, began: float) -> None:
    """Move kept tests of disabled nodes back to the nodes, where a full parse leaves them. A partial parse moves them."""
    for unique_id, node in before.nodes.items():
        if node.config.enabled or unique_id in after.nodes:
            continue
        members = after.disabled.get(unique_id, [])
        kept: list[Any] = [member for member in members if member.created_at < began]
        if len(kept) == len(members) == 1:
            after.nodes[unique_id] = kept[0]
            del after.disabled[unique_id]


def _drop_left_behind(before: Manifest, after: Manifest, began: float) -> None:
    """Drop disabled members that dbt left behind when it parsed them again, such as sources."""
    many, wanted = _members(after), _members(before)
    for unique_id in [each for each in after.disabled if many[each] > wanted.get(each, 0)]:
        members = [member for member in after.disabled[unique_id] if member.created_at >= began]
        if members:
            after.disabled[unique_id] = members
        else:
            del after.disabled[unique_id]


def _require_same_members(before: Manifest, after: Manifest) -> None:
    for unique_id, node in after.nodes.items():
        if getattr(before.nodes.get(unique_id), "patch_path", None) and not getattr(node, "patch_path", None):
            raise NotProvenError  # dbt parsed it again without the entry that describes it
    for name in _COLLECTIONS:
        if name not in _MOVING and getattr(before, name, {}).keys() != getattr(after, name, {}).keys():
            raise NotProvenError
    if _members(before) != _members(after):
        raise NotProvenError


def _members(manifest: Manifest) -> dict[str, int]:
    """The number of members, enabled or not, of each unique id."""
    found = {unique_id: len(members) for unique_id, members in manifest.disabled.items()}
    for name in _MOVING:
        for unique_id in getattr(manifest, name):
            found[unique_id] = found.get(unique_id, 0) + 1
    return found


def _differs(old: Any, new: Any, name: str) -> bool:
    return bool(getattr(old, name, None) != getattr(new, name, None))


def _parts(manifest: Manifest) -> Iterator[Any]:
    for name in _MOVING:
        yield from getattr(manifest, name).values()
    for members in manifest.disabled.values():
        yield from members


def _refers_to(part: Any, refs: set[str], sources: set[tuple[str, str]], tested: set[str]) -> bool:
    if str(part.resource_type) == "unit_test":
        return part.model in tested
    if str(part.resource_type) == "seed":
        return False  # dbt raises an error if its refs are asked for
    return any(ref.name in refs for ref in getattr(part, "refs", ())) or any(
        tuple(source) in sources for source in getattr(part, "sources", ())
    )


def is_hook(node: Any) -> bool:
    """Whether a node is a hook of dbt_project.yml (``on-run-start``)."""
    return str(node.resource_type) == "operation"


def _unit(part: Any, manifest: Manifest) -> Unit:
    file: Any = manifest.files.get(part.file_id)
    kind = str(part.resource_type)
    if is_hook(part):
        return Unit(part.file_id)
    if file is None:
        raise NotProvenError
    if kind == "source":
        return Unit(part.file_id, "sources", part.source_name)
    if kind in {"exposure", "unit_test"}:
        return Unit(part.file_id, f"{kind}s", part.name)
    tests: dict[str, dict[str, list[str]]] = getattr(file, "data_tests", {})
    for key, entries in tests.items():
        for name, unique_ids in entries.items():
            if part.unique_id in unique_ids:
                return Unit(part.file_id, key, name)
    if part.unique_id in getattr(file, "snapshots", ()):
        return Unit(part.file_id, "snapshots", part.name)
    return Unit(part.file_id)
