"""A changed var set on a project that was parsed before: parses again only what reads a changed var.

dbt parses the whole project when ``--vars`` differ. The engine keeps with each parse what each part of the project
read (`parse_reads`), and with other vars:

1. Keeps the parts that read no changed var.
2. Renders the others again (`rerendering`), and keeps those whose parse would return the same.
3. Lets dbt's own partial parsing parse the rest again (`dbt_partial_parse`).

Where this is not proven to equal a full parse, `reparse` returns None, and the caller parses the whole project.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jinja2
import msgspec
from dbt.config.runtime import RuntimeConfig
from dbt.contracts.graph.manifest import Manifest
from dbt.deprecations import active_deprecations
from dbt_common.dataclass_schema import ValidationError
from dbt_common.events.base_types import EventMsg
from dbt_common.events.event_manager_client import get_event_manager
from dbt_common.exceptions import DbtBaseException

from workers.engine.project.config_levels import SECTIONS, ConfigLevels
from workers.engine.project.dbt_partial_parse import parse_again
from workers.engine.project.dependents import NotProvenError, in_order, not_parsed_again, with_descriptions
from workers.engine.project.parse_messages import Warnings, is_kept, parsed_again, rendered_again
from workers.engine.project.parse_reads import (
    VOLATILE,
    ChangedFileError,
    Recorder,
    UnitReads,
    any_changed,
)
from workers.engine.project.parse_units import PROJECT, Unit
from workers.engine.project.parse_watching import watching
from workers.engine.project.time_limits import TimeLimitError

_ROUNDS = 4
"""Rounds of partial parsing, at most. Each round adds what refers to a node that the round before changed."""


class Base(msgspec.Struct, frozen=True):
    """What is kept of a parse for other var sets.

    Attributes:
        key: key of its context.
        vars: digest of each var's value, and of each level of a project's config that contains Jinja.
        project: digest of the rest of the rendered project files, of profile and catalogs.
        seen: what each unit read, where it read anything.
        warned: what dbt and templates logged during the parse.
        order: unique ids in the order in which a full parse adds them.
    """

    key: str
    vars: dict[str, str]
    project: str
    seen: list[UnitReads]
    warned: Warnings = msgspec.field(default_factory=Warnings)
    order: list[str] = msgspec.field(default_factory=list)


class Reparsed(msgspec.Struct):
    """A manifest for other vars.

    Attributes:
        same: whether it is the manifest of the base itself.
        seen: as in `Base`.
        warned: as in `Base`. The caller has to log it.
    """

    manifest: Manifest
    same: bool
    seen: list[UnitReads]
    warned: Warnings


_PARSE_ERRORS = (
    NotProvenError, ChangedFileError, DbtBaseException, jinja2.TemplateError, ValidationError, AssertionError,
    AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
)  # fmt: skip
"""Errors of dbt's parser and of ours. Other exceptions are interruptions, which another thread raises here."""


def digests(config: RuntimeConfig) -> dict[str, str]:
    """A digest of each var's value, and of each level of a project's config that contains Jinja.

    The order within mappings counts, as templates can see it.
    """
    values = {name: _digest(value) for name, value in config.cli_vars.items()}
    return values | ConfigLevels(config).digests


def project_digest(config: RuntimeConfig, catalogs: Any) -> str:
    """A digest of the rendered dbt_project.yml of project and packages without what `digests` has, of profile and catalogs."""
    parts: list[Any] = [repr(catalogs), config.credentials.to_dict(), config.to_target_dict(), config.threads]
    for name, project in sorted(config.load_dependencies().items()):
        rest = project.to_project_config(with_packages=True)
        for section in SECTIONS:
            rest.pop(section, None)
            rest.pop(section.replace("_", "-"), None)
        parts += [name, rest, project.manifest_selectors]
    return _digest((parts, ConfigLevels(config).constant))


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:32]


def changed_vars(old: Mapping[str, str], new: Mapping[str, str]) -> set[str]:
    """Names whose digest differs, or that only one of the two has."""
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def reparse(
    base: Base, parsed: Manifest, click_context: Any, config: RuntimeConfig, copied: Callable[[], Manifest]
) -> Reparsed | None:
    """Parse the project of `base` with the vars of `config`.

    Args:
        parsed: the manifest of `base`. It is not changed.
        copied: returns a new copy of it, as dbt's partial parsing would load it.

    Returns:
        The manifest for these vars; None if only a full parse can tell.
    """
    given = digests(config)
    again = Recorder()
    try:
        with (
            captured_events() as events,
            watching(config, recorder := Recorder()),
            recorder.warned.listening(),
        ):
            differ = _differing(base, parsed, config, recorder, changed_vars(base.vars, given))
        if any(msg.info.level == "info" and not is_kept(msg.info.name, "info") for msg in events):
            return None  # whether a full parse logs it is not known
        slots = rendered_again(base.warned.slots, recorder.warned.slots)
        if differ:
            manifest, again = _parsed_with_dependents(parsed, copied, differ, click_context, config)
            in_order(manifest, parsed, base.order)
            slots = parsed_again(slots, again.warned.slots)
        if digests(config) != given:
            return None  # a template changed a var's value, and which parts read the old value is not known
    except TimeLimitError:
        raise
    except _PARSE_ERRORS:
        return None
    if not (recorder.warned.complete and again.warned.complete):
        return None
    seen = _merged(base.seen, recorder)
    if differ:
        entered = {unit.entry for unit in again.entered}
        kept = [each for each in seen if each.unit == PROJECT or each.unit.entry not in entered]
        seen = [*kept, *again.units()]
    volatile = {each.unit.entry for each in seen if (each.names | each.late_names) & VOLATILE}
    warned = Warnings(
        slots, of_this_time=any(slot.messages and slot.unit.entry in volatile for slot in slots)
    )
    return Reparsed(manifest if differ else parsed, not differ, seen, warned)


def _differing(
    base: Base, parsed: Manifest, config: RuntimeConfig, recorder: Recorder, changed: set[str]
) -> set[Unit]:
    """The files and entries whose parse differs with the vars of `config`.

    Raises:
        NotProvenError: a part that belongs to no file or entry read a changed var.
    """
    from workers.engine.project.rerendering import (
        Rerenderer,  # needs more of dbt's parser than a release without `changed-vars` may have
    )

    differ: set[Unit] = set()
    prober: Rerenderer | None = None
    for seen in base.seen:
        late = any_changed(seen.late, changed) or bool(seen.late_names & VOLATILE)
        if not late and not any_changed(seen.vars, changed) and not seen.names & VOLATILE:
            continue
        if seen.unit == PROJECT:
            raise NotProvenError
        prober = prober or Rerenderer(parsed, config, recorder)
        if late or not prober.same(seen):
            differ.add(seen.unit.entry)
    return differ


def _merged(old: Iterable[UnitReads], probed: Recorder) -> list[UnitReads]:
    """What units read, with what those that were rendered again read this time."""
    result = []
    for seen in old:
        again = probed.seen.get(seen.unit)
        if again is None or seen.unit == PROJECT:
            result.append(seen)
        else:  # only its code was rendered again
            result.append(
                msgspec.structs.replace(seen, vars=again.vars, names=again.names, outputs=again.outputs)
            )
    return result


def _parsed_with_dependents(
    parsed: Manifest,
    copied: Callable[[], Manifest],
    differ: set[Unit],
    click_context: Any,
    config: RuntimeConfig,
) -> tuple[Manifest, Recorder]:
    """The manifest, with the files and entries that differ parsed again, and those that refer to what they changed.

    Raises:
        NotProvenError: dbt parsed the whole project, or it takes too many rounds.
    """
    for _ in range(_ROUNDS):
        differ = with_descriptions(parsed, differ)
        began = time.time()
        with captured_events(), watching(config, recorder := Recorder()):
            manifest = parse_again(parsed, copied(), differ, click_context)
        if recorder.whole:
            break
        others = not_parsed_again(parsed, manifest, began)
        if not others:
            return manifest, recorder
        if others <= differ:
            break
        differ = differ | others
    raise NotProvenError


def emit(events: Iterable[EventMsg]) -> None:
    """Hand captured events to dbt's callbacks."""
    for msg in events:
        for callback in get_event_manager().callbacks:
            callback(msg)


@contextlib.contextmanager
def captured_events() -> Iterator[list[EventMsg]]:
    """Capture dbt's events within, and restore the deprecations that dbt counted.

    Raises:
        NotProvenError: a template wrote to stdout.
    """
    manager = get_event_manager()
    events: list[EventMsg] = []
    loggers, callbacks = manager.loggers, manager.callbacks
    deprecations = dict(active_deprecations)
    manager.loggers, manager.callbacks = [], [events.append]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            yield events
    finally:
        manager.loggers, manager.callbacks = loggers, callbacks
        active_deprecations.clear()
        active_deprecations.update(deprecations)
    if printed.getvalue():
        raise NotProvenError
