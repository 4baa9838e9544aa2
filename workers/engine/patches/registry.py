"""Puts the replacements of `catalog` in place: those for speed where the installed source is one that was tested."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from workers.contract.errors import DbtUsageError
from workers.engine.patches.catalog import CATALOG, NEEDED, Patch

DIGESTS: Final = Path(__file__).with_name("digests.json")
"""The digests of the source that each patch was tested with, and the releases that have this source.
``scripts/patch_digests.py`` writes the file."""

OFF: Final = "off"

ON, DISABLED, UNKNOWN, NOT_NEEDED = "on", "disabled", "unknown source", "not needed"


class State(msgspec.Struct, frozen=True):
    """Whether a patch is in place.

    Attributes:
        name: of the patch.
        state: `ON`, `DISABLED` (by the setting), `UNKNOWN` (the installed source was not tested) or `NOT_NEEDED` (by
            the installed release of dbt-core).
    """

    name: str
    state: str


_states: dict[str, State] = {}


def install_needed(when: str) -> None:
    """Put the replacements of `NEEDED` in place that belong to this moment (`catalog.Needed.when`)."""
    for needed in NEEDED:
        if needed.when == when:
            resolve(needed.install)()


def apply(setting: str = "", catalog: Iterable[Patch] = CATALOG) -> None:
    """Put the patches in place. Patches of an earlier call in this process stay as they are.

    Args:
        setting: empty for all patches, ``off`` for none, or names of patches to leave out, comma between
            (``DBT_RELAY_PATCHES``).

    Raises:
        DbtUsageError: the setting names a patch that does not exist.
    """
    catalog = tuple(catalog)
    left_out = _left_out(setting, catalog)
    known = known_digests()
    for patch in catalog:
        if patch.name not in _states:
            state = DISABLED if patch.name in left_out else _applied(patch, known)
            _states[patch.name] = State(patch.name, state)


def enabled(name: str) -> bool:
    """Whether a patch is in place in this process."""
    return name in _states and _states[name].state == ON


def states() -> tuple[State, ...]:
    """The state of each patch in this process."""
    return tuple(_states.values())


def disabled() -> tuple[str, ...]:
    """Names of the patches that ``DBT_RELAY_PATCHES`` turned off."""
    return tuple(each.name for each in _states.values() if each.state == DISABLED)


def skipped() -> tuple[str, ...]:
    """Names of the patches that were left out because the installed source was not tested."""
    return tuple(each.name for each in _states.values() if each.state == UNKNOWN)


@cache
def known_digests() -> Mapping[str, Mapping[str, list[str]]]:
    """`DIGESTS` as data: patch, digest, releases."""
    known: dict[str, dict[str, list[str]]] = json.loads(DIGESTS.read_text(encoding="utf-8"))
    return known


def digest_of(patch: Patch) -> str | None:
    """A digest of the installed source of the functions that a patch replaces and repeats.

    Returns:
        16 hexadecimal digits; None where a function does not exist or its source is not installed.
    """
    total = hashlib.blake2b(digest_size=8)
    try:
        for name in patch.sources:
            total.update(_source_of(name).encode())
            total.update(b"\0")
    except (ImportError, AttributeError, OSError, TypeError):
        return None
    return total.hexdigest()


@cache
def _source_of(name: str) -> str:
    return textwrap.dedent(inspect.getsource(resolve(name)))


def is_for_this_release(patch: Patch) -> bool:
    """Whether the patch is for the installed release of dbt-core."""
    if patch.before is None:
        return True
    major, minor, *_ = version("dbt-core").split(".")
    return (int(major), int(minor)) < patch.before


def resolve(name: str) -> Any:
    """The object of a dotted name with a colon after its module: ``dbt.graph:Graph.get_subset_graph``.

    Raises:
        ImportError, AttributeError: it does not exist.
    """
    owner, attribute = _owner(name)
    return getattr(owner, attribute)


def exists(name: str) -> bool:
    """Whether `resolve` finds the object."""
    try:
        resolve(name)
    except (ImportError, AttributeError):
        return False
    return True


def _owner(name: str) -> tuple[Any, str]:
    module, _, path = name.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, attribute


def _applied(patch: Patch, known: Mapping[str, Mapping[str, list[str]]]) -> str:
    if not is_for_this_release(patch):
        return NOT_NEEDED
    if digest_of(patch) not in known.get(patch.name, {}):
        return UNKNOWN
    if not patch.target:
        return ON
    try:
        owner, attribute = _owner(patch.target)
        getattr(owner, attribute)  # do not add a function that dbt does not have
        setattr(owner, attribute, resolve(patch.replacement))
    except (ImportError, AttributeError):
        return UNKNOWN
    return ON


def _left_out(setting: str, catalog: tuple[Patch, ...]) -> frozenset[str]:
    names = frozenset(each.name for each in catalog)
    wanted = frozenset(name.strip() for name in setting.split(",") if name.strip())
    if wanted == {OFF}:
        return names
    if wanted - names:
        raise DbtUsageError(
            f"environment variable DBT_RELAY_PATCHES={setting!r}: {', '.join(sorted(wanted - names))} is unknown. "
            f"Set it to {OFF}, or to names of patches to leave out: {', '.join(sorted(names))}"
        )
    return wanted
