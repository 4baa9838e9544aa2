"""Removing what nobody needs any longer: ended runs before their time, and what dead processes left.

A run's keys expire by themselves (``DBT_RELAY_RESULT_TTL``), so nothing here has to be done; it makes
room at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec
import redis

from workers.contract.keys import is_run_id
from workers.contract.redis_values import is_wrong_type, number_of, text_of, value_of
from workers.contract.results import RUN_TERMINAL
from workers.contract.run_store import RunStore, answer_of


class Purged(msgspec.Struct, kw_only=True):
    """What was removed, and what was not.

    Attributes:
        runs: ended runs, the oldest first.
        forced: live runs that were removed because that was asked for.
        live: live runs that were named and left alone.
        recent: ended runs that were left because they are not old enough.
        orphans: keys of runs that are no more.
        watches: leases and expected messages of runs that are no more.
        locks: warehouse locks that nobody held.
        workers: workers that ended without a goodbye.
        unreadable: what is no entry of ours: keys of another type, hellos and holders that cannot be read.
    """

    runs: list[str] = []
    forced: list[str] = []
    live: list[str] = []
    recent: list[str] = []
    orphans: int = 0
    watches: int = 0
    locks: int = 0
    workers: list[str] = []
    unreadable: int = 0


def purge(
    store: RunStore,
    *,
    older_than: float | None = None,
    named: Collection[str] | None = None,
    force: bool = False,
    silent_for: float = 60.0,
) -> Purged:
    """Remove ended runs and leftovers. One pass over the keys of the namespace.

    Args:
        older_than: seconds since the end of a run from which on it is removed; None: no ended run is.
        named: only these runs, whatever their age.
        force: live runs too. Cancel them first: a worker that still holds a step hears at its next beat
            that it lost it, and its result is not recorded.
        silent_for: seconds without a hello after which a worker counts as dead.
    """
    done = Purged(unreadable=store.remove_wrong_types() + _forget_unreadable(store))
    now = store.server_time()
    for run_id, keys in sorted(_keys_by_run(store).items()):
        state, ended = _state_of(store, run_id)
        if not state or not is_run_id(run_id):  # no worker takes a run without a proper id
            done.orphans += _remove(store, keys)
        elif state in RUN_TERMINAL:
            if named is not None and run_id not in named:
                continue
            if named is None and (older_than is None or ended > now - older_than):
                done.recent.append(run_id)
                continue
            _forget_run(store, run_id, keys)
            done.runs.append(run_id)
        elif force and (named is None or run_id in named):
            _forget_run(store, run_id, keys)
            done.forced.append(run_id)
        elif named is not None and run_id in named:
            done.live.append(run_id)
    done.watches = _forget_watches(store)
    done.locks = _forget_locks(store, now, done)
    done.workers = forget_workers(store, silent_for=silent_for)
    return done


def forget_workers(store: RunStore, *, silent_for: float) -> list[str]:
    """Remove the hellos of workers that were silent for so many seconds; who they were."""
    now, key = store.server_time(), store.keys.workers()
    gone = [
        name
        for name, said in answer_of(store.client.hgetall(key)).items()
        if number_of((value_of(said, dict[str, Any]) or {}).get("seen")) < now - silent_for
    ]
    if gone:
        store.client.hdel(key, *gone)
    return [text_of(name) for name in gone]


def _state_of(store: RunStore, run_id: str) -> tuple[str, float]:
    """State of a run and when it ended, seconds since the epoch; empty where there is no such run."""
    try:
        state, ended = answer_of(store.client.hmget(store.keys.run(run_id), "state", "ended"))
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            raise
        return "", 0.0
    return text_of(state), number_of(ended)


def _forget_unreadable(store: RunStore) -> int:
    """Remove entries of `Keys.strays` that are no JSON objects: they name no process."""
    key = store.keys.strays()
    entries = answer_of(store.client.hkeys(key))
    junk = [entry for entry in entries if value_of(entry, dict[str, Any]) is None]
    return int(answer_of(store.client.hdel(key, *junk))) if junk else 0


def _keys_by_run(store: RunStore) -> dict[str, list[bytes]]:
    start = store.keys.run("")
    found: dict[str, list[bytes]] = defaultdict(list)
    for key in store.client.scan_iter(match=f"{start}*", count=1000):
        found[text_of(key)[len(start) :].partition(":")[0]].append(key)
    return found


def _forget_run(store: RunStore, run_id: str, keys: Iterable[bytes]) -> None:
    # out of the lists first, so that nobody finds half a run
    store.client.zrem(store.keys.active(), run_id)
    store.client.zrem(store.keys.finished(), run_id)
    store.call("abandon", run_id)
    _remove(store, {*keys, *(key.encode() for key in store.keys.of_run(run_id))})


def _remove(store: RunStore, keys: Iterable[bytes]) -> int:
    return int(answer_of(store.client.unlink(*keys)))


def _forget_watches(store: RunStore) -> int:
    """Leases and watches, and entries of the lists, whose run is no more."""
    keys, removed = store.keys, 0
    for key in (keys.leases(), keys.watches(), keys.active(), keys.finished()):
        gone = list(_gone(store, store.client.zscan_iter(key)))
        if gone:
            count = int(answer_of(store.client.zrem(key, *gone)))
            removed += count if key in (keys.leases(), keys.watches()) else 0
    return removed


def _gone(store: RunStore, entries: Iterable[tuple[bytes, float]]) -> Iterator[bytes]:
    known: dict[str, bool] = {}
    for entry, _ in entries:
        run_id = text_of(entry).partition(" ")[0]
        if run_id not in known:
            known[run_id] = is_run_id(run_id) and bool(store.client.exists(store.keys.run(run_id)))
        if not known[run_id]:
            yield entry


def _forget_locks(store: RunStore, now: float, done: Purged) -> int:
    removed = 0
    for raw in list(store.client.scan_iter(match=f"{store.keys.locks()}*", count=1000)):
        key = text_of(raw)
        if key.endswith(":writer"):  # it expires by itself
            continue
        try:
            if key.endswith(":waiters"):
                _forget_waiters(store, key)
            elif key.endswith(":readers"):
                removed += _free_readers(store, key, now)
            else:
                removed += _free(store, key, now)
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            done.unreadable += _remove(store, [raw])
    return removed


def _forget_waiters(store: RunStore, key: str) -> None:
    for waiter in answer_of(store.client.lrange(key, 0, -1)):
        if store.client.zscore(store.keys.active(), waiter.partition(b" ")[0]) is None:
            store.client.lrem(key, 0, waiter)


def _free(store: RunStore, key: str, now: float) -> bool:
    """Remove a lock if neither its run nor its session lives; not if somebody takes it meanwhile, and not
    before its time where it has one (a relation's, of a worker that may not have heard of its run's end)."""
    freed = False

    def look(pipe: Any) -> None:
        nonlocal freed
        run_id, expires, holder = pipe.hmget(key, "run", "expires", "holder")
        freed = run_id is None or (
            pipe.zscore(store.keys.active(), run_id) is None
            and number_of(expires) < now * 1000
            and pipe.pttl(key) < 0
        )
        pipe.multi()
        if freed:
            pipe.delete(key)
            _suspect(pipe, store, holder, now)

    store.client.transaction(look, key)
    return freed


def _free_readers(store: RunStore, key: str, now: float) -> int:
    """The same for those that read a file; how many."""
    freed: list[bytes] = []

    def look(pipe: Any) -> None:
        freed.clear()
        holders = []
        for run_id, raw in pipe.hgetall(key).items():
            hold = value_of(raw, dict[str, Any]) or {}
            if (
                pipe.zscore(store.keys.active(), run_id) is None
                and number_of(hold.get("expires")) < now * 1000
            ):
                freed.append(run_id)
                holders.append(hold.get("holder"))
        pipe.multi()
        for run_id, holder in zip(freed, holders, strict=True):
            pipe.hdel(key, run_id)
            _suspect(pipe, store, holder, now)

    store.client.transaction(look, key)
    return len(freed)


def _suspect(pipe: Any, store: RunStore, holder: str | bytes | None, now: float) -> None:
    """as ledger/scripts/files.lua does: the process of a lock that was not let go may have the file open still."""
    if holder is not None:
        pipe.hset(store.keys.strays(), holder, int(now * 1000))
        pipe.expire(store.keys.strays(), 24 * 3600)
