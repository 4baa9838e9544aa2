"""Events of dbt, made by protobuf's own constructor."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from dbt_common.events.base_types import BaseEvent

_event_of_dbt = BaseEvent.__init__


def make_event(self: BaseEvent, *args: Any, **kwargs: Any) -> None:
    """An event from its fields, by protobuf's own constructor (some 40 times as fast) where that cannot
    differ from the reading of JSON that dbt takes the way by."""
    for name in ("base_msg", "msg"):
        if name in kwargs:
            kwargs[name] = str(kwargs[name])
    made = None
    if not args and _is_plain(kwargs):
        # what it does not take, dbt may, or it says what is wrong
        with contextlib.suppress(Exception):
            made = getattr(self.PROTO_TYPES_MODULE, type(self).__name__)(**kwargs)
    if made is None:
        _event_of_dbt(self, *args, **kwargs)
    else:
        self.pb_msg = made


def _is_plain(value: Any) -> bool:
    """Values of which both make the same: no bool (an int to one of them), no dates, no huge numbers."""
    kind = type(value)
    if kind is str or value is None:
        return True
    if kind is dict:
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    if kind is list:
        return all(type(each) is str for each in value)
    if kind is int:
        return bool(-(2**31) <= value < 2**31)
    return kind is float and bool(math.isfinite(value)) and -1e30 < value < 1e30
