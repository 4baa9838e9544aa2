"""JSON encoding of the values that templates keep between nodes.

Numbers, strings, booleans and None are encoded as themselves, all other values as a list that begins with a tag. Each
dict, list, set and namespace has a reference. Later changes use it, and it preserves the identity of an object that is
stored in two places. A value without a JSON form is encoded as a reference to the object in the process that made it.
In another process, a `RemoteValue` stands for it, and using that is an error.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import Enum
from typing import Any, Protocol

import agate  # type: ignore[import-untyped]
import pytz  # type: ignore[import-untyped]
from dbt.adapters.base import BaseAdapter, BaseRelation, Column
from dbt.clients.jinja import MacroGenerator
from dbt_common.clients import agate_helper
from dbt_common.exceptions import CompilationError
from jinja2.utils import Namespace
from markupsafe import Markup

Ref = tuple[Any, ...]
"""Identifies a container in all processes of a run.

``("graph" | "beside" | "node", …)`` is a path in the parsed project, ``("made", origin, number)`` an object that a
template made.
"""


class References(Protocol):
    """Registry of references: for containers, and for values without a JSON form."""

    adapter: BaseAdapter

    def ref_of(self, container: Any) -> Ref | None:
        """The reference of a container, or None."""

    def register(self, value: Any, ref: Ref | None = None) -> Ref:
        """Register a value under the reference that it has in another process, by default under a new one."""

    def resolve(self, ref: Ref) -> Any:
        """The value with this reference, or None."""

    def macro(self, unique_id: str, node: str) -> Any:
        """A macro in the context of a node, or None."""


class RemoteValue:
    """Stands for a value that exists only in another process. Any use of it raises an error."""

    def __init__(self, ref: Ref, what: str) -> None:
        self.__dict__.update(ref=ref, what=what)

    def __getattr__(self, _: str) -> Any:
        return self._refuse()

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise CompilationError(
            f"an earlier node or hook, which another process executed, kept a value of type {self.__dict__['what']}. "
            "dbt-relay cannot transfer values of that type between processes: keep strings, numbers, dates, lists, "
            "dicts, sets, relations or macros."
        )


def _refuse_all_operators() -> None:
    for name in (
        "getitem", "setitem", "delitem", "iter", "len", "str", "repr", "call", "eq", "ne", "lt", "le", "gt", "ge",
        "hash", "bool", "contains", "add", "radd", "sub", "rsub", "mul", "rmul", "int", "float", "html",
    ):  # fmt: skip
        setattr(RemoteValue, f"__{name}__", RemoteValue._refuse)


_refuse_all_operators()

_EXACT = 2**53  # larger integers lose digits where JSON numbers are read as floats
_ATTRS = "_Namespace__attrs"


def contents(container: Any) -> Any:
    """A shallow copy of the content of a container."""
    if isinstance(container, Namespace):
        return dict(getattr(container, _ATTRS))
    return list(container) if isinstance(container, list) else type_of(container)(container)


def type_of(container: Any) -> Any:
    """The kind of a container: dict, list, set or Namespace."""
    return next(kind for kind in CONTAINERS if isinstance(container, kind))


CONTAINERS = (dict, list, set, Namespace)


def refill(container: Any, content: Any) -> None:
    """Replace the content of a container by `content`, which `contents` returned."""
    if isinstance(container, Namespace):
        container = getattr(container, _ATTRS)
    if isinstance(container, list):
        container[:] = content
        return
    kind = type_of(container)
    kind.clear(container)
    kind.update(container, content)


def encode(value: Any, refs: References) -> Any:
    """Encode the current state of a value. Containers without a reference get one."""
    if value is None or type(value) in (bool, str):
        return value
    if isinstance(value, CONTAINERS):
        return _encode_container(value, refs)
    if isinstance(value, str) and type(value) is not Markup:
        return str(value.value if isinstance(value, Enum) else value)  # dbt's subclasses of `str`
    write = _WRITE.get(type(value))
    if write is not None:
        return write(value, refs)
    known = refs.ref_of(value)  # set for a value without a JSON form that was encoded before
    written = None if known else _encode_other(value, refs)
    if written is not None:
        return written
    return [
        "elsewhere",
        list(known or refs.register(value)),
        f"{type(value).__module__}.{type(value).__qualname__}",
    ]


_WRITE: dict[type, Callable[[Any, References], Any]] = {
    int: lambda value, _: value if -_EXACT < value < _EXACT else ["int", str(value)],
    float: lambda value, _: value if math.isfinite(value) else ["float", repr(value)],
    tuple: lambda value, refs: ["tuple", encode_all(value, refs)],
    frozenset: lambda value, refs: ["frozenset", encode_all(value, refs)],
    bytes: lambda value, _: ["bytes", value.hex()],
    Decimal: lambda value, _: ["decimal", str(value)],
    Markup: lambda value, _: ["markup", str(value)],
    dt.date: lambda value, _: ["date", value.isoformat()],
    dt.timedelta: lambda value, _: ["timedelta", [value.days, value.seconds, value.microseconds]],
    RemoteValue: lambda value, _: ["elsewhere", list(value.__dict__["ref"]), value.__dict__["what"]],
}


def encode_all(values: Iterable[Any], refs: References) -> list[Any]:
    """Encode several values. See `encode`."""
    return [encode(each, refs) for each in values]


def pairs(mapping: Any, refs: References) -> list[list[Any]]:
    """Encode the entries of a dict."""
    return [[encode(key, refs), encode(each, refs)] for key, each in mapping.items()]


def _encode_container(value: Any, refs: References) -> Any:
    known = refs.ref_of(value)
    if known is not None:
        return ["ref", list(known)]
    ref = list(refs.register(value))  # before its content: a container may contain itself
    if isinstance(value, (dict, Namespace)):
        kind = "dict" if isinstance(value, dict) else "namespace"
        return [kind, ref, pairs(contents(value), refs)]
    return [type_of(value).__name__, ref, encode_all(value, refs)]


def _encode_other(value: Any, refs: References) -> Any:
    """Encode a value of a known class, if decoding returns an equal value; None otherwise."""
    try:
        written = _written(value, refs)
        read = None if written is None else decode(written, refs)
        same = type(read) is type(value) and (written[0] in _UNCOMPARED or read == value)
    except Exception:  # noqa: BLE001 - raised by the value's own methods: then it has no JSON form
        return None
    return written if same else None


_UNCOMPARED = frozenset({"macro", "table", "row"})


def _written(value: Any, refs: References) -> Any:
    kind, written = type(value), None
    if kind in (dt.datetime, dt.time):
        written = [kind.__name__, value.replace(tzinfo=None).isoformat(), value.fold, _zone(value)]
    elif isinstance(value, BaseRelation):
        written = ["relation", encode(value.to_dict(omit_none=True), _Plain(refs))]
    elif isinstance(value, Column):
        written = ["column", encode(dict(vars(value)), _Plain(refs))]
    elif kind is MacroGenerator and value.node is not None:
        written = ["macro", value.macro.unique_id, value.node.unique_id]
    elif kind is agate.Table:
        types = [type(each).__name__ for each in value.column_types]
        written = ["table", list(value.column_names), types, [encode_all(row, refs) for row in value.rows]]
    elif kind is agate.Row:
        written = ["row", list(value.keys() or ()), encode_all(value.values(), refs)]
    return written


class _Plain:
    """References that register nothing, for the fields of a relation or column."""

    def __init__(self, refs: References) -> None:
        self.adapter, self.macro = refs.adapter, refs.macro

    def ref_of(self, _: Any) -> Ref | None:
        return None

    def register(self, _: Any, ref: Ref | None = None) -> Ref:
        return ref or ()

    def resolve(self, _: Ref) -> Any:
        return None


def _zone(value: Any) -> Any:
    zone = value.tzinfo
    if zone is None or zone is dt.timezone.utc:
        return zone and "utc"
    name = getattr(zone, "zone", None)
    if name is not None:
        return ["pytz", name, bool(value.dst())]
    if type(zone) is dt.timezone:
        return ["offset", zone.utcoffset(None).total_seconds()]
    raise ValueError(f"no JSON for a time zone of type {type(zone).__name__}")


def _in_zone(value: Any, zone: Any) -> Any:
    if zone is None:
        return value
    if zone == "utc":
        return value.replace(tzinfo=dt.timezone.utc)
    if zone[0] == "offset":
        return value.replace(tzinfo=dt.timezone(dt.timedelta(seconds=zone[1])))
    return pytz.timezone(zone[1]).localize(value, is_dst=zone[2])


def decode(written: Any, refs: References) -> Any:
    """Decode a value that `encode` wrote."""
    if not isinstance(written, list):
        return written
    return _READ[written[0]](refs, *written[1:])


def decode_all(written: Iterable[Any], refs: References) -> list[Any]:
    """Decode several values. See `decode`."""
    return [decode(each, refs) for each in written]


def decode_pairs(written: Iterable[Any], refs: References) -> dict[Any, Any]:
    """Decode a dict that `pairs` wrote."""
    return {decode(key, refs): decode(each, refs) for key, each in written}


def _container(kind: Callable[[], Any]) -> Callable[..., Any]:
    def read(refs: References, ref: list[Any], content: list[Any]) -> Any:
        made = kind()
        refs.register(made, tuple(ref))
        is_mapping = isinstance(made, (dict, Namespace))
        refill(made, decode_pairs(content, refs) if is_mapping else decode_all(content, refs))
        return made

    return read


def _resolved(refs: References, ref: list[Any]) -> Any:
    found = refs.resolve(tuple(ref))
    if found is None:
        raise CompilationError(f"a template changed an object that does not exist in this process: {ref}")
    return found


def _elsewhere(refs: References, ref: list[Any], what: str) -> Any:
    found = refs.resolve(tuple(ref))
    if found is None:
        found = RemoteValue(tuple(ref), what)
    return found


def _macro(refs: References, unique_id: str, node: str) -> Any:
    found = refs.macro(unique_id, node)
    return found if found is not None else RemoteValue((), f"macro {unique_id}")


def _table(refs: References, columns: list[str], types: list[str], rows: list[Any]) -> Any:
    kinds = [getattr(agate_helper, kind, None) or getattr(agate, kind) for kind in types]
    return agate.Table([decode_all(row, refs) for row in rows], columns, [kind() for kind in kinds])


_READ: dict[str, Callable[..., Any]] = {
    "ref": _resolved,
    "elsewhere": _elsewhere,
    "dict": _container(dict),
    "list": _container(list),
    "set": _container(set),
    "namespace": _container(Namespace),
    "tuple": lambda refs, each: tuple(decode_all(each, refs)),
    "frozenset": lambda refs, each: frozenset(decode_all(each, refs)),
    "int": lambda _, text: int(text),
    "float": lambda _, text: float(text),
    "markup": lambda _, text: Markup(text),  # noqa: S704 - the encoded value was Markup
    "decimal": lambda _, text: Decimal(text),
    "bytes": lambda _, text: bytes.fromhex(text),
    "date": lambda _, text: dt.date.fromisoformat(text),
    "timedelta": lambda _, parts: dt.timedelta(*parts),
    "datetime": lambda _, text, fold, zone: _in_zone(dt.datetime.fromisoformat(text), zone).replace(
        fold=fold
    ),
    "time": lambda _, text, fold, zone: _in_zone(dt.time.fromisoformat(text), zone).replace(fold=fold),
    "relation": lambda refs, fields: refs.adapter.Relation.from_dict(decode(fields, _Plain(refs))),
    "column": lambda refs, fields: refs.adapter.Column(**decode(fields, _Plain(refs))),
    "macro": _macro,
    "table": _table,
    "row": lambda refs, keys, each: agate.Row(decode_all(each, refs), keys or None),
}
