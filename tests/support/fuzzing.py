"""Generates invalid messages: queue entries and requests with wrong fields or bytes."""

from __future__ import annotations

import base64
import contextlib
import json
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from workers.contract.keys import QUEUE
from workers.contract.messages import RunRequest, encode_request

RUN = "20250101T000000-0123456789ab"
FAMILY = 50
"""Number of mutants of one entry, including itself."""

TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", RUN, "../../etc/passwd", "@plan", "@session", "model.a.b", "model.a/../b", "relay.node", "celery.chord",
         "relay.plan", "\x00", "\ud800", "x" * 5000, "utf-8", "base64", "pickle", "application/json", "zlib", "1e999"]
    ),
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), st.integers(), st.floats(allow_nan=True), TEXT
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
HEADERS = {
    "lang": "py", "task": "relay.node", "id": "1", "root_id": "1", "parent_id": None, "group": None, "retries": 0,
    "eta": None, "expires": None, "timelimit": [None, None], "shadow": None, "argsrepr": "()", "kwargsrepr": "{}",
    "origin": "1@host", "ignore_result": True, "stamped_headers": None, "stamps": {}, "meth": "x",
}  # fmt: skip
PROPERTIES = {
    "correlation_id": "1", "delivery_mode": 2, "delivery_tag": "tag", "body_encoding": "base64",
    "delivery_info": {"exchange": "", "routing_key": QUEUE}, "priority": 0, "reply_to": "x",
}  # fmt: skip
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
ENVELOPE = {"content-encoding": "utf-8", "content-type": "application/json"}


def mutated(good: dict[str, Any], most: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    """A valid mapping with some fields replaced, removed or added."""
    names = st.one_of(st.sampled_from(sorted(good)), TEXT)
    changes = st.dictionaries(names, ANYTHING, max_size=most)
    gone = st.sets(st.sampled_from(sorted(good)), max_size=1)
    return st.builds(
        lambda c, g: {name: value for name, value in {**good, **c}.items() if name not in g}, changes, gone
    )


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    """Bytes of a queue entry: from random bytes to a message with one wrong field."""
    kind = draw(st.sampled_from(["noise", "json", "body", "message", "message", "message", "message"]))
    if kind == "noise":
        return draw(st.binary(max_size=60))
    if kind == "json":
        return json.dumps(draw(ANYTHING)).encode()
    if kind == "body":
        body = draw(st.one_of(st.binary(max_size=60), ANYTHING.map(lambda each: json.dumps(each).encode())))
    else:
        args = draw(st.one_of(
            st.lists(ANYTHING, max_size=4), st.tuples(st.just(RUN), TEXT).map(list),
            st.just([RUN, "@plan"]), ANYTHING,
        ))  # fmt: skip
        kwargs = draw(st.one_of(st.just({}), ANYTHING))
        body = json.dumps([args, kwargs, draw(st.one_of(st.just(EMBED), mutated(EMBED), ANYTHING))]).encode()
    exact = kind == "body"
    message = {
        **draw(st.just(ENVELOPE) if exact else st.one_of(st.just(ENVELOPE), mutated(ENVELOPE, 1))),
        "body": base64.b64encode(body).decode(),
        "headers": HEADERS if exact else draw(st.one_of(st.just(HEADERS), mutated(HEADERS))),
        "properties": PROPERTIES if exact else draw(st.one_of(st.just(PROPERTIES), mutated(PROPERTIES, 1))),
    }
    return json.dumps(message).encode()


def entry(args: Any, headers: dict[str, Any] = HEADERS, embed: Any = None, **properties: Any) -> bytes:
    body = base64.b64encode(json.dumps([args, {}, embed or EMBED]).encode()).decode()
    return json.dumps(
        {**ENVELOPE, "body": body, "headers": headers, "properties": {**PROPERTIES, **properties}}
    ).encode()


POOL: list[Any] = [
    None, True, False, 0, -1, 2**70, 1e308, float("nan"), "", [], {}, [[]], {"a": {}}, [None] * 3, RUN, "@plan",
    "@session", "../../etc/passwd", "model.a/../b", "model.a.b", "relay.node", "celery.chord", "\x00", "\ud800",
    "x" * 5000, "utf-8", "base64", "gzip", "application/x-python-serialize", "2026-01-01T00:00:00", {"task": "relay.plan"},
]  # fmt: skip


def mutants(raw: bytes, chance: random.Random) -> Iterator[bytes]:
    """Yield `raw`, then copies with replaced bytes or values in the envelope or in the body."""
    yield raw
    for _ in range(FAMILY - 1):
        with contextlib.suppress(ValueError, RecursionError):
            message = json.loads(raw)
            if isinstance(message, dict) and chance.random() < 0.9:
                if isinstance(message.get("body"), str) and chance.random() < 0.5:
                    body = base64.b64decode(message["body"])
                    with contextlib.suppress(ValueError, RecursionError):
                        body = json.dumps(replaced(json.loads(body), chance)).encode()
                    body = body if chance.random() < 0.8 else corrupted(body, chance)
                    message["body"] = base64.b64encode(body).decode()
                else:
                    message = replaced(message, chance)
                yield json.dumps(message).encode()
                continue
        yield corrupted(raw, chance)


def replaced(value: Any, chance: random.Random) -> Any:
    """Replace one random element in `value`."""
    inner = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    if not inner or chance.random() < 0.1:
        return chance.choice(POOL)
    key, below = chance.choice(inner)
    value[key] = replaced(below, chance)
    return value


def corrupted(raw: bytes, chance: random.Random) -> bytes:
    """Truncate `raw`, or replace a few of its bytes."""
    place, width = chance.randrange(len(raw) + 1), chance.randrange(4)
    return (
        raw[:place] if chance.random() < 0.2 else raw[:place] + chance.randbytes(width) + raw[place + width :]
    )


REQUEST = json.loads(
    encode_request(
        RunRequest(run_id=RUN, args=("run",), cwd="/c", project_dir="/c/dbt", env={"A": "x"}, command="run")
    )
)
REQUESTS = st.one_of(
    st.binary(max_size=60), ANYTHING.map(lambda each: json.dumps(each).encode()),
    mutated({**REQUEST, "version": 1, "env_file": None, "retry": {}, "priority": 0})
    .map(lambda each: json.dumps(each).encode()),
)  # fmt: skip
