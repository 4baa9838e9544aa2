"""The stack of trials: a Redis server and three workers with one process each, which faults break."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.chaos.journal import JOURNAL, Absence, Execution, Journal
from tests.chaos.link import Link
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from tests.support.worker_pool import WorkerPool

HOSTS = 3
FOREVER = float("inf")


class Stack:
    """Redis and workers, for a whole series of trials.

    Args:
        folder: for the journal.
        lease: ``DBT_RELAY_LEASE_SECONDS`` of the workers, seconds.
        reap: ``DBT_RELAY_REAP_SECONDS`` of the workers, seconds.
        env: variables added to the environment of the workers.
    """

    def __init__(self, folder: Path, *, lease: float, reap: float, env: Mapping[str, str]) -> None:
        self.lease = lease
        self.server = RedisServer(appendfsync="everysec")
        self.journal = Journal(folder / "journal")
        self.hosts: list[WorkerPool] = []
        self.absences: dict[int, list[Absence]] = defaultdict(list)
        self._env = {
            **env,
            JOURNAL: str(self.journal.folder),
            "DBT_RELAY_LEASE_SECONDS": f"{lease:g}",
            "DBT_RELAY_REAP_SECONDS": f"{reap:g}",
        }
        self._gone: list[WorkerPool] = []
        self._links: dict[str, Link] = {}
        self._stopped: dict[int, float] = {}
        self._started = 0
        self.server_lock = threading.Lock()
        """Held by a fault that makes Redis unavailable, so that only one does at a time."""
        self._lock = threading.RLock()

    # life

    def start(self) -> None:
        """Start server and workers."""
        self.journal.folder.mkdir(parents=True, exist_ok=True)
        self.server.start()
        self.caller = self._new_link("caller")
        self._links["caller"] = self.caller
        self.hosts = [self._new_host() for _ in range(HOSTS)]
        self.mend()

    def _new_link(self, name: str) -> Link:
        return Link(self.server.directory / f"{name}.sock", self.server.socket).start()

    def _new_host(self) -> WorkerPool:
        self._started += 1
        link = self._new_link(f"host{self._started}")
        host = WorkerPool(self.server, 1, self._env, link.broker_url, app="tests.chaos.witness")
        self._links[host.name] = link
        return host.start(wait=False)

    def mend(self) -> None:
        """Repair the stack after a trial: continue, reconnect and replace what faults stopped."""
        with self._lock:
            for pid in list(self._stopped):
                self.resume(pid)
            for link in self._links.values():
                link.mend()
            if not self.server.alive:
                self.server.start()
            with self.server.client() as client:
                client.config_set("maxmemory", "0")
            for host in self.hosts:
                if not host.alive:
                    self.replace(host)
            hosts = list(self.hosts)
        for host in hosts:
            host.wait_ready(180)
        for host in self._gone:
            host.close()
            self._links.pop(host.name).close()
        self._gone.clear()

    def crashed(self) -> list[str]:
        """Workers that ended without a fault, with the end of their logs."""
        return [f"{host.name} ended by itself:\n{host.log(25)}" for host in self.hosts if not host.alive]

    def close(self) -> None:
        """Stop server and workers."""
        for pid in list(self._stopped):
            self.resume(pid)
        for host in [*self.hosts, *self._gone]:
            host.kill()
            host.close()
        for link in self._links.values():
            link.close()
        self.server.close()

    @property
    def links(self) -> list[Link]:
        """Links of the workers and the caller."""
        return list(self._links.values())

    def link(self, host: WorkerPool) -> Link:
        """A worker's link to Redis."""
        return self._links[host.name]

    # processes

    def busy(self, run: str) -> list[Execution]:
        """Executions that are running, by the journal."""
        mine = {child for host in self.hosts for child in host.children}
        return [each for each in self.journal.executions(run) if each.left is None and each.pid in mine]

    def notice_deaths(self, run: str) -> None:
        """Record processes that ended during a step without a fault: a worker kills a process that holds a lost file."""
        for each in self.journal.executions(run):
            if each.left is None and not self.is_dead(each.pid) and _is_gone(each.pid):
                with self._lock:
                    self._absent([each.pid])

    def is_dead(self, pid: int) -> bool:
        """Whether a process is known to have ended."""
        return any(absence.until == FOREVER for absence in self.absences.get(pid, ()))

    def victim(self, run: str, choice: float) -> WorkerPool:
        """Select a worker that executes a step of the run; any worker if none does."""
        with self._lock:
            busy = {each.pid for each in self.busy(run)}
            alive = [
                host for host in self.hosts
                if host.alive and self._stopped.keys().isdisjoint([host.pid, *host.children])
            ]  # fmt: skip
            working = [host for host in alive if busy & set(host.children)]
            among = working or alive or self.hosts
            return among[int(choice * len(among))]

    # faults

    def kill(self, host: WorkerPool, pids: list[int] | None = None) -> list[int]:
        """Send SIGKILL to some children of a worker, or (None) to all its processes. Returns the children."""
        with self._lock:
            if pids is None:
                pids = host.children
                host.kill()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._absent(pids)
        return pids

    def replace(self, host: WorkerPool) -> None:
        """Start a new worker in place of one that ended."""
        with self._lock:
            if host in self.hosts:
                self.hosts[self.hosts.index(host)] = self._new_host()
                self._gone.append(host)

    def drain(self, host: WorkerPool) -> None:
        """Send SIGTERM and wait until the worker has ended."""
        os.kill(host.pid, signal.SIGTERM)
        wait_until(lambda: not host.alive, 120, f"{host.name} to stop; its log:\n{host.log()}")

    def stop(self, pids: list[int]) -> None:
        """Send SIGSTOP."""
        with self._lock:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    self._stopped.setdefault(pid, time.time())  # another fault may have stopped it
                    os.kill(pid, signal.SIGSTOP)

    def resume(self, pid: int) -> None:
        """Send SIGCONT."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            since = self._stopped.pop(pid, None)
            if since is not None:
                # a process that was killed while it was stopped is dead
                self.absences[pid].append(Absence(since, FOREVER if _is_gone(pid) else time.time()))
                os.kill(pid, signal.SIGCONT)

    def _absent(self, pids: list[int]) -> None:
        now = time.time()
        for pid in pids:
            self.absences[pid].append(Absence(self._stopped.pop(pid, now), FOREVER))


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
