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
from workers.engine.project.dependents import NotProvenError, in_order, not_looked_at_again, with_descriptions
from workers.engine.project.parse_messages import Warnings, is_kept, parsed_again, rendered_again
from workers.engine.project.parse_reads import (
    VOLATILE,
    ChangedFileError,
    Recorder,
    Seen,
    touched,
)
from workers.engine.project.parse_units import PROJECT, Unit
from workers.engine.project.parse_watching import watching
from workers.engine.project.time_limits import TimeLimitError

_ROUNDS = 4
"""How often what refers to a changed node is parsed again, at most."""


class Base(msgspec.Struct, frozen=True):
    """What is kept of a parse for other var sets.

    Attributes:
        key: of its context.
        vars: digest of each var's value, and of each level of a project's config that contains Jinja.
        project: digest of the rest of the rendered project files, of profile and catalogs.
        seen: whatever looked at anything.
        warned: what dbt and templates said while it parsed.
        order: unique ids in the order in which a full parse met them.
    """

    key: str
    vars: dict[str, str]
    project: str
    seen: list[Seen]
    warned: Warnings = msgspec.field(default_factory=Warnings)
    order: list[str] = msgspec.field(default_factory=list)


class Reparsed(msgspec.Struct):
    """The manifest for other vars: the very same, or another.

    Attributes:
        seen, warned: see `Base`. `warned` was not said yet.
    """

    manifest: Manifest
    same: bool
    seen: list[Seen]
    warned: Warnings


_DOUBTS = (
    NotProvenError, ChangedFileError, DbtBaseException, jinja2.TemplateError, ValidationError, AssertionError,
    AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
)  # fmt: skip
"""What a parse of dbt's ends with, of all that may be raised here (an interruption is raised by another thread)."""


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
    given = digests(config)
    again = Recorder()
    try:
        with aside() as said, watching(config, recorder := Recorder()), recorder.warned.listening():
            differ = _differing(base, parsed, config, recorder, changed_vars(base.vars, given))
        if any(msg.info.level == "info" and not is_kept(msg.info.name, "info") for msg in said):
            return None  # it is not known to be said in a full parse
        slots = rendered_again(base.warned.slots, recorder.warned.slots)
        if differ:
            manifest, again = _parsed_with_others(parsed, fresh, differ, click_context, config)
            in_order(manifest, parsed, base.order)
            slots = parsed_again(slots, again.warned.slots)
        if digests(config) != given:
            return None  # a template changed a var's value, and who read it when is anybody's guess
    except TimeLimitError:
        raise
    except _DOUBTS:
        return None
    if not (recorder.warned.complete and again.warned.complete):
        return None
    seen = _merged(base.seen, recorder)
    if differ:
        entered = {unit.entry for unit in again.entered}
        kept = [each for each in seen if each.unit == PROJECT or each.unit.entry not in entered]
        seen = [*kept, *again.units()]
    volatile = {each.unit.entry for each in seen if (each.names | each.late_names) & VOLATILE}
    warned = Warnings(slots, of_this_time=any(slot.said and slot.unit.entry in volatile for slot in slots))
    return Reparsed(manifest if differ else parsed, not differ, seen, warned)


def _differing(
    base: Base, parsed: Manifest, config: RuntimeConfig, recorder: Recorder, changed: set[str]
) -> set[Unit]:
    """The files and entries whose parse would be another.

    Raises:
        NotProvenError
    """
    from workers.engine.project.rerendering import (
        Prober,  # needs more of dbt's parser than a release without `changed-vars` may have
    )

    differ: set[Unit] = set()
    prober: Prober | None = None
    for seen in base.seen:
        late = touched(seen.late, changed) or bool(seen.late_names & VOLATILE)
        if not late and not touched(seen.vars, changed) and not seen.names & VOLATILE:
            continue
        if seen.unit == PROJECT:
            raise NotProvenError
        prober = prober or Prober(parsed, config, recorder)
        if late or not prober.same(seen):
            differ.add(seen.unit.entry)
    return differ


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


def _parsed_with_others(
    parsed: Manifest,
    fresh: Callable[[], Manifest],
    differ: set[Unit],
    click_context: Any,
    config: RuntimeConfig,
) -> tuple[Manifest, Recorder]:
    """The manifest once the files and entries that differ, and those that refer to what they changed, were parsed again.

    Raises:
        NotProvenError
    """
    for _ in range(_ROUNDS):
        differ = with_descriptions(parsed, differ)
        began = time.time()
        with aside(), watching(config, recorder := Recorder()):
            manifest = parse_again(parsed, fresh(), differ, click_context)
        if recorder.whole:
            break
        others = not_looked_at_again(parsed, manifest, began)
        if not others:
            return manifest, recorder
        if others <= differ:
            break
        differ = differ | others
    raise NotProvenError


def say(said: Iterable[EventMsg]) -> None:
    """Say what was kept `aside`."""
    for msg in said:
        for callback in get_event_manager().callbacks:
            callback(msg)


@contextlib.contextmanager
def aside() -> Iterator[list[EventMsg]]:
    """Keep what dbt and templates say within from everybody.

    Raises:
        NotProvenError: a template printed something.
    """
    manager = get_event_manager()
    said: list[EventMsg] = []
    loggers, callbacks = manager.loggers, manager.callbacks
    deprecations = dict(active_deprecations)
    manager.loggers, manager.callbacks = [], [said.append]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            yield said
    finally:
        manager.loggers, manager.callbacks = loggers, callbacks
        active_deprecations.clear()
        active_deprecations.update(deprecations)
    if printed.getvalue():
        raise NotProvenError
