"""The faults, by name, and drawing them from a seed with their times and lengths."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import redis

from tests.chaos.journal import Execution
from tests.chaos.stack import Stack
from tests.support.worker_pool import WorkerPool
from workers.contract.keys import QUEUE, TASK_CLOSE


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """A fault with the values that a seed has drawn.

    Attributes:
        name: see `FAULTS`.
        share: the fault strikes when this share of the steps of an undisturbed run have started,
        delay: and these seconds later.
        choice: selects one of several workers, from 0 to 1.
        length: seconds of a lasting fault.
        count: number of messages.
    """

    name: str
    share: float
    delay: float
    choice: float
    length: float
    count: int

    def __str__(self) -> str:
        lasting = f", {self.length:.1f} s" if self.name in LASTING else ""
        return f"{self.name} at {self.share:.0%} + {self.delay * 1000:.0f} ms{lasting}"


@dataclass
class Struck:
    """What a fault has done.

    Attributes:
        at: when it struck, seconds since the epoch; None: the run had ended before.
        over: when a lasting fault was over.
        interrupted: executions that it ended or stopped.
        note: details.
    """

    drawn: Drawn
    at: float | None = None
    over: float | None = None
    interrupted: list[Execution] = field(default_factory=list)
    note: str = ""


class Trial(Protocol):
    """Interface of a trial for a fault."""

    stack: Stack
    run: str

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""

    def replace_producer(self) -> str:
        """Kill the run's producer and start another one. Returns a note."""

    def pause(self, seconds: float) -> None:
        """Wait, at most until the end of the trial."""


Strike = Callable[[Trial, Struck], None]


def _child_killed(trial: Trial, struck: Struck) -> None:
    host = _victim(trial, struck)
    _killed(trial, struck, host, host.children)


def _host_killed(trial: Trial, struck: Struck) -> None:
    host = _victim(trial, struck)
    _killed(trial, struck, host, None)
    trial.stack.replace(host)


def _killed(trial: Trial, struck: Struck, host: WorkerPool, pids: list[int] | None) -> None:
    at = time.time()
    gone = trial.stack.kill(host, pids)
    struck.at = at
    struck.interrupted = [
        each for each in trial.stack.journal.executions(trial.run) if each.left is None and each.pid in gone
    ]


def _child_stopped(trial: Trial, struck: Struck) -> None:
    _stopped(trial, struck, whole=False)


def _host_stopped(trial: Trial, struck: Struck) -> None:
    _stopped(trial, struck, whole=True)


def _stopped(trial: Trial, struck: Struck, *, whole: bool) -> None:
    host = _victim(trial, struck)
    children = host.children
    pids = [host.pid, *children] if whole else children
    struck.at = time.time()
    trial.stack.stop(pids)
    struck.interrupted = [each for each in trial.stack.busy(trial.run) if each.pid in children]
    trial.pause(struck.drawn.length)
    for pid in pids:
        trial.stack.resume(pid)


def _worker_drained(trial: Trial, struck: Struck) -> None:
    host = _victim(trial, struck)
    struck.at = time.time()
    trial.stack.drain(host)
    trial.stack.replace(host)


def _connections_dropped(trial: Trial, struck: Struck) -> None:
    struck.at = time.time()
    for link in trial.stack.links:
        link.drop()


def _worker_cut_off(trial: Trial, struck: Struck) -> None:
    host = _victim(trial, struck)
    children = host.children
    link = trial.stack.link(host)
    struck.at = time.time()
    link.freeze()
    struck.interrupted = [each for each in trial.stack.busy(trial.run) if each.pid in children]
    trial.pause(struck.drawn.length)
    link.mend()


def _broker_unreachable(trial: Trial, struck: Struck) -> None:
    struck.at = time.time()
    links = trial.stack.links
    for link in links:
        link.cut()
    trial.pause(struck.drawn.length)
    for link in links:
        link.mend()
    struck.over = time.time()


def _redis_killed(trial: Trial, struck: Struck) -> None:
    server = trial.stack.server
    with trial.stack.server_lock:
        always = struck.drawn.choice < 0.5
        struck.note = f"appendfsync {'always' if always else 'everysec'}"
        with server.client() as client:
            client.config_set("appendfsync", "always" if always else "everysec")
        struck.at = time.time()
        server.kill()
        trial.pause(struck.drawn.length)
        server.start()
    struck.over = time.time()


def _redis_full(trial: Trial, struck: Struck) -> None:
    with trial.stack.server_lock, trial.stack.server.client() as client:
        struck.at = time.time()
        client.config_set("maxmemory", "1")
        trial.pause(struck.drawn.length)
        client.config_set("maxmemory", "0")
    struck.over = time.time()


def _redis_paused(trial: Trial, struck: Struck) -> None:
    with trial.stack.server_lock, trial.stack.server.client() as client:
        struck.at = time.time()
        client.client_pause(int(struck.drawn.length * 1000))
    trial.pause(struck.drawn.length)
    struck.over = time.time()


def _messages_lost(trial: Trial, struck: Struck) -> None:
    _change_messages(trial, struck, lambda taken, _: taken.clear())


def _messages_doubled(trial: Trial, struck: Struck) -> None:
    _change_messages(trial, struck, lambda taken, _: taken.extend(list(taken) * 2))


def _messages_shuffled(trial: Trial, struck: Struck) -> None:
    def shuffle(taken: list[bytes], rng: random.Random) -> None:
        rng.shuffle(taken)

    _change_messages(trial, struck, shuffle, hold=0.4)


def _close_lost(trial: Trial, struck: Struck) -> None:
    """Take every message from the queue and put it back, but for the message of the close."""
    task = TASK_CLOSE.encode()
    with trial.stack.server.client(decode_responses=False) as client:
        while not trial.ended:
            taken = _take(client)
            if taken is not None and task in taken:
                struck.at, struck.note = time.time(), "1 message"
                return
            if taken is not None:
                client.lpush(QUEUE, taken)


def _producer_killed(trial: Trial, struck: Struck) -> None:
    struck.at = time.time()
    struck.note = trial.replace_producer()


def _change_messages(
    trial: Trial, struck: Struck, change: Callable[[list[bytes], random.Random], None], hold: float = 0.0
) -> None:
    """Take messages before a worker does, change the list, and put its messages back."""
    taken: list[bytes] = []
    with trial.stack.server.client(decode_responses=False) as client:
        while not trial.ended and len(taken) < struck.drawn.count:
            message = _take(client)
            if message is not None:
                taken.append(message)
                struck.at = struck.at or time.time()
            if struck.at and hold and time.time() - struck.at > hold:
                break
        if not taken:
            return
        struck.note = f"{len(taken)} messages"
        change(taken, random.Random(struck.drawn.choice))
        for message in taken:
            client.lpush(QUEUE, message)


def _take(client: redis.Redis) -> bytes | None:
    """Take the next message; None if none comes soon or Redis is unreachable."""
    try:
        answer = client.brpop([QUEUE], timeout=0.3)
    except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
        time.sleep(0.1)
        return None
    return None if answer is None else answer[1]


def _victim(trial: Trial, struck: Struck) -> WorkerPool:
    return trial.stack.victim(trial.run, struck.drawn.choice)


FAULTS: Final[Mapping[str, Strike]] = {
    "worker child killed": _child_killed,
    "worker host killed": _host_killed,
    "worker child stopped and continued": _child_stopped,
    "worker host stopped and continued": _host_stopped,
    "worker drained and replaced": _worker_drained,
    "worker cut off from Redis": _worker_cut_off,
    "connections dropped": _connections_dropped,
    "broker unreachable": _broker_unreachable,
    "Redis killed and restarted": _redis_killed,
    "Redis full": _redis_full,
    "Redis paused": _redis_paused,
    "messages lost": _messages_lost,
    "messages doubled": _messages_doubled,
    "messages out of order": _messages_shuffled,
    "close message lost": _close_lost,
    "producer killed": _producer_killed,
}

LASTING: Final = frozenset(
    {"worker child stopped and continued", "worker host stopped and continued", "worker cut off from Redis",
     "broker unreachable", "Redis killed and restarted", "Redis full", "Redis paused"}
)  # fmt: skip
"""The faults with a length."""


def draw(seed: int, *, lease: float, longest: float, among: Sequence[str] = ()) -> list[Drawn]:
    """One to four faults.

    Args:
        lease: of the workers, in seconds: processes are stopped or cut off for longer.
        longest: maximum seconds of an outage of Redis.
        among: names that may be drawn; empty: all.
    """
    rng = random.Random(seed)
    drawn = []
    for name in rng.choices(sorted(among or FAULTS), k=rng.randint(1, 4)):
        away = name.startswith(("Redis", "broker"))
        length = rng.uniform(0.3, longest) if away else lease * rng.uniform(1.2, 2.0)
        drawn.append(
            Drawn(
                name=name, share=rng.uniform(0, 0.95), delay=rng.uniform(0, 0.3), choice=rng.random(),
                length=round(length, 2), count=rng.randint(1, 4),
            )
        )  # fmt: skip
    return sorted(drawn, key=lambda each: each.share)
