"""Removes ended runs before they expire, and what dead processes left in Redis.

A run's keys expire by themselves (``DBT_RELAY_RESULT_TTL``). Purging is not necessary; it frees memory at once.
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
    """What `purge` removed, and what it kept.

    Attributes:
        runs: removed ended runs, the oldest first.
        forced: active runs that were removed because of `force`.
        live: active runs that were named, and kept.
        recent: ended runs that were kept because they are not old enough.
        orphans: number of removed keys whose run does not exist.
        watches: number of removed leases and watches whose run does not exist.
        locks: number of removed warehouse locks without a holder.
        workers: removed entries of workers that ended without removing their entry.
        unreadable: number of removed entries that dbt-relay did not write: keys of another type, invalid holders.
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
    """Remove ended runs, and what dead processes left. Scans the keys of the namespace once.

    Args:
        store: the runs.
        older_than: runs that ended at least this many seconds ago are removed; None: no ended run is removed.
        named: only these runs are removed, whatever their age.
        force: remove active runs too. Cancel them first: a worker that executes a step learns at its next renewal
            that its lease is lost, and its result is not recorded.
        silent_for: seconds without renewal of its entry after which a worker counts as dead.
    """
    done = Purged(unreadable=store.remove_wrong_types() + _remove_unreadable(store))
    now = store.server_time()
    for run_id, keys in sorted(_keys_by_run(store).items()):
        state, ended = _state_of(store, run_id)
        if not state or not is_run_id(run_id):  # workers refuse runs without a valid id
            done.orphans += _remove(store, keys)
        elif state in RUN_TERMINAL:
            if named is not None and run_id not in named:
                continue
            if named is None and (older_than is None or ended > now - older_than):
                done.recent.append(run_id)
                continue
            _remove_run(store, run_id, keys)
            done.runs.append(run_id)
        elif force and (named is None or run_id in named):
            _remove_run(store, run_id, keys)
            done.forced.append(run_id)
        elif named is not None and run_id in named:
            done.live.append(run_id)
    done.watches = _remove_watches(store)
    done.locks = _remove_locks(store, now, done)
    done.workers = forget_workers(store, silent_for=silent_for)
    return done


def forget_workers(store: RunStore, *, silent_for: float) -> list[str]:
    """Remove the entries of workers that did not renew them for `silent_for` seconds. Returns their names."""
    now, key = store.server_time(), store.keys.workers()
    gone = [
        name
        for name, entry in answer_of(store.client.hgetall(key)).items()
        if number_of((value_of(entry, dict[str, Any]) or {}).get("seen")) < now - silent_for
    ]
    if gone:
        store.client.hdel(key, *gone)
    return [text_of(name) for name in gone]


def _state_of(store: RunStore, run_id: str) -> tuple[str, float]:
    """Return the state of a run and the time of its end, seconds since the epoch; an empty state if it does not exist."""
    try:
        state, ended = answer_of(store.client.hmget(store.keys.run(run_id), "state", "ended"))
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            raise
        return "", 0.0
    return text_of(state), number_of(ended)


def _remove_unreadable(store: RunStore) -> int:
    """Remove entries of `Keys.strays` that are not JSON objects. Returns how many."""
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


def _remove_run(store: RunStore, run_id: str, keys: Iterable[bytes]) -> None:
    # first from the lists, so that no reader finds a partly removed run
    store.client.zrem(store.keys.active(), run_id)
    store.client.zrem(store.keys.finished(), run_id)
    store.call("abandon", run_id)
    _remove(store, {*keys, *(key.encode() for key in store.keys.of_run(run_id))})


def _remove(store: RunStore, keys: Iterable[bytes]) -> int:
    return int(answer_of(store.client.unlink(*keys)))


def _remove_watches(store: RunStore) -> int:
    """Remove leases, watches and entries of the lists of runs that do not exist. Returns how many leases and watches."""
    keys, removed = store.keys, 0
    for key in (keys.leases(), keys.watches(), keys.active(), keys.finished()):
        gone = list(_without_run(store, store.client.zscan_iter(key)))
        if gone:
            count = int(answer_of(store.client.zrem(key, *gone)))
            removed += count if key in (keys.leases(), keys.watches()) else 0
    return removed


def _without_run(store: RunStore, entries: Iterable[tuple[bytes, float]]) -> Iterator[bytes]:
    known: dict[str, bool] = {}
    for entry, _ in entries:
        run_id = text_of(entry).partition(" ")[0]
        if run_id not in known:
            known[run_id] = is_run_id(run_id) and bool(store.client.exists(store.keys.run(run_id)))
        if not known[run_id]:
            yield entry


def _remove_locks(store: RunStore, now: float, done: Purged) -> int:
    removed = 0
    for raw in list(store.client.scan_iter(match=f"{store.keys.locks()}*", count=1000)):
        key = text_of(raw)
        if key.endswith(":writer"):  # expires by itself
            continue
        try:
            if key.endswith(":waiters"):
                _remove_waiters(store, key)
            elif key.endswith(":readers"):
                removed += _remove_readers(store, key, now)
            else:
                removed += _remove_lock(store, key, now)
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            done.unreadable += _remove(store, [raw])
    return removed


def _remove_waiters(store: RunStore, key: str) -> None:
    for waiter in answer_of(store.client.lrange(key, 0, -1)):
        if store.client.zscore(store.keys.active(), waiter.partition(b" ")[0]) is None:
            store.client.lrem(key, 0, waiter)


def _remove_lock(store: RunStore, key: str, now: float) -> bool:
    """Remove a lock whose run and session have ended, unless another run takes it meanwhile.

    A lock with a time to live is kept until it expires: the lock of a relation, whose worker may not know yet that its
    run ended.
    """
    removable = False

    def look(pipe: Any) -> None:
        nonlocal removable
        run_id, expires, holder = pipe.hmget(key, "run", "expires", "holder")
        removable = run_id is None or (
            pipe.zscore(store.keys.active(), run_id) is None
            and number_of(expires) < now * 1000
            and pipe.pttl(key) < 0
        )
        pipe.multi()
        if removable:
            pipe.delete(key)
            _add_stale_holder(pipe, store, holder, now)

    store.client.transaction(look, key)
    return removable


def _remove_readers(store: RunStore, key: str, now: float) -> int:
    """Remove the locks of readers whose run and session have ended. Returns how many."""
    removable: list[bytes] = []

    def look(pipe: Any) -> None:
        removable.clear()
        holders = []
        for run_id, raw in pipe.hgetall(key).items():
            hold = value_of(raw, dict[str, Any]) or {}
            if (
                pipe.zscore(store.keys.active(), run_id) is None
                and number_of(hold.get("expires")) < now * 1000
            ):
                removable.append(run_id)
                holders.append(hold.get("holder"))
        pipe.multi()
        for run_id, holder in zip(removable, holders, strict=True):
            pipe.hdel(key, run_id)
            _add_stale_holder(pipe, store, holder, now)

    store.client.transaction(look, key)
    return len(removable)


def _add_stale_holder(pipe: Any, store: RunStore, holder: str | bytes | None, now: float) -> None:
    """Add the holder of a lock to the stale lock holders, as `ledger/scripts/files.lua` does: it did not release the
    lock, so it may still have the file open."""
    if holder is not None:
        pipe.hset(store.keys.strays(), holder, int(now * 1000))
        pipe.expire(store.keys.strays(), 24 * 3600)
