"""The guardian: the process that owns an embedded stack and ends it when the caller ends.

It is started by file path, ``python -I -S …/embedded/guardian.py``. It uses the standard library
only and one thread, so it starts in milliseconds and can fork. Which process watches which::

    caller ──stdin──> guardian ──pipe──> sweeper      end of file on a pipe = the writer has ended
                         ├── server                   (each in its own session, killed as a group)
                         └── worker ── pool children

Only the caller holds the write end of the guardian's stdin, so the guardian notices even a SIGKILL
of the caller (Linux and macOS). The sweeper is a fork of the guardian. It waits until the guardian
has ended, kills the remaining process groups and removes the runtime folders; so a SIGKILL of the
guardian leaves nothing behind either. On Linux the kernel also kills server and worker when the
guardian dies (PR_SET_PDEATHSIG). The guardian does not set that for itself: the kernel would kill it
when the caller's *thread* that started it ends.

stdin: one line of JSON (see `Config`). After that the caller writes nothing, or `KEEP` once: then a
detached stack goes on without its caller.
stdout: one JSON object a line: ``ready``, ``worker_exit`` or ``failed``. End of file means that
guardian, sweeper and the whole stack have ended.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, TypedDict

SERVER_START_SECONDS = 10.0
SERVER_STOP_SECONDS = 2.0
GROUP_GONE_SECONDS = 3.0
QUICK_EXIT_SECONDS = 30.0
"""A worker that ends sooner than this after its start counts towards `MAX_QUICK_EXITS`."""
MAX_QUICK_EXITS = 6
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
MAX_LOG_BYTES = 16 * 1024 * 1024
KEEP = b"keep"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Config(TypedDict):
    """Configuration of a stack, read from stdin.

    Attributes:
        caller: pid of the caller; the stack ends with it. None for a stack that outlives its caller.
        folders: removed at the end; the first holds the logs and ``stack.json``.
        locks: inherited file descriptors that hold the folders' locks; server and worker do not inherit them.
        socket: path of the server's unix socket.
        server: command line.
        worker: command line.
        grace: seconds between SIGTERM and SIGKILL of the worker.
        idle_if_empty: keys of sorted sets. Where all are empty, the worker gets no grace. None: it always does.
        info: content of ``stack.json``; the guardian adds its pid.
        failure: file that keeps the reason of a failed stack, or None.
    """

    caller: int | None
    folders: list[str]
    locks: list[int]
    socket: str
    server: list[str]
    worker: list[str]
    grace: float
    idle_if_empty: list[str] | None
    info: dict[str, Any]
    failure: str | None


def send_command(path: str, line: str, timeout: float) -> bytes:
    """Send an inline command and return the first line of the reply; empty if the server cannot be reached."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(path)
            connection.sendall(f"{line}\r\n".encode())
            return connection.recv(64)
    except OSError:
        return b""


def answers_ping(path: str, timeout: float = 1.0) -> bool:
    """Whether a Redis-compatible server answers PING on the unix socket `path` within `timeout` seconds."""
    return send_command(path, "PING", timeout).startswith((b"+PONG", b"-BUSY"))  # BUSY: a long script runs


def tail(path: str, lines: int = 20) -> str:
    """The last `lines` lines of a log, from its last 8 KiB; empty if it cannot be read."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 8192))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-lines:])


def describe_exit(status: int) -> str:
    """Describe a wait status: ``exit code 3`` or ``signal SIGTERM``."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def prctl(option: int, value: int) -> None:
    """Call prctl(2) on Linux. Does nothing on other systems or without ctypes."""
    if sys.platform != "linux":
        return
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def group_alive(group: int) -> bool:
    """Whether the group has a process left. macOS returns EPERM for a group of zombies."""
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True


def kill_groups(groups: list[int], reap: Callable[[], None] = lambda: None) -> None:
    """Send SIGKILL to each process group and wait until all have ended; `reap` collects ended children."""
    for group in groups:
        with suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    deadline = time.monotonic() + GROUP_GONE_SECONDS
    reap()
    while any(map(group_alive, groups)) and time.monotonic() < deadline:
        time.sleep(0.005)
        reap()


def same_folder(folder: str, folder_stat: os.stat_result) -> bool:
    """Whether `folder` is still the folder with this `folder_stat`: not removed or replaced since."""
    try:
        return os.path.samestat(os.stat(folder), folder_stat)
    except OSError:
        return False


def remove(folders: list[tuple[str, os.stat_result]]) -> None:
    """Remove the runtime folders, ``stack.json`` first, so that no client finds half a stack.

    A folder that was replaced belongs to a later stack and stays.
    """
    import shutil

    for folder, folder_stat in folders:
        if same_folder(folder, folder_stat):
            with suppress(OSError):
                os.unlink(os.path.join(folder, "stack.json"))
            shutil.rmtree(folder, ignore_errors=True)


def sweep(pipe: int, folders: list[tuple[str, os.stat_result]]) -> None:
    """Main loop of the sweeper: read the groups (``+pid``, ``-pid``) until the guardian ends, then clean up."""
    groups: list[int] = []
    with open(pipe, encoding="ascii") as lines:
        for line in lines:
            group = int(line[1:])
            if line[0] == "+":
                groups.append(group)
            elif group in groups:
                groups.remove(group)
    kill_groups(groups)
    remove(folders)


class Guardian:
    """Starts the server and the worker, restarts the worker, and ends both. Call `run` once."""

    def __init__(self, config: Config, lifeline: int = 0, reports: int = 1) -> None:
        self.config = config
        self.reports = reports
        self.lifeline: int | None = lifeline  # None once the stack goes on without its caller
        self.reason = ""  # why the stack ends; empty while it runs
        self.pids: dict[str, int] = {}
        self.started: dict[str, float] = {}
        self.exits: list[tuple[str, int]] = []  # name and wait status, not yet handled
        self.ended: list[int] = []  # pids whose process group may still exist
        self.force = False
        self.folders = [(folder, os.stat(folder)) for folder in config["folders"]]
        self.sweeper = 0
        self.to_sweeper = -1
        self.wake = (-1, -1)

    def run(self) -> None:
        """Run the stack. Returns when all its processes and folders are gone."""
        self._install_signal_handlers()
        try:
            self._start_sweeper()
            if self._start_server():
                self._supervise_worker()
        finally:
            self._shut_down()

    # signals and waiting

    def _install_signal_handlers(self) -> None:
        self.wake = os.pipe()
        os.set_blocking(self.wake[0], False)
        os.set_blocking(self.wake[1], False)
        signal.set_wakeup_fd(self.wake[1], warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop_signal)
        # Handlers, not SIG_IGN: an ignored signal stays ignored in the server and the worker.
        for number in (signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # exec inherits the caller's mask
        prctl(PR_SET_CHILD_SUBREAPER, 1)

    def _on_stop_signal(self, number: int, _frame: FrameType | None) -> None:
        self.force = bool(self.reason)  # a second signal: no grace
        self.reason = self.reason or signal.Signals(number).name

    def _wait(self, seconds: float) -> None:
        """Wait up to `seconds` for a signal, an ended child or the caller's end."""
        fds = [self.wake[0]] + ([] if self.lifeline is None else [self.lifeline])
        readable, _, _ = select.select(fds, [], [], max(0.0, seconds))
        if self.wake[0] in readable:
            with suppress(BlockingIOError):
                os.read(self.wake[0], 4096)
        if self.lifeline is not None:
            received = os.read(self.lifeline, 4096) if self.lifeline in readable else None
            # A fork of the caller without Python's fork hooks may hold the pipe: so check the parent's pid too.
            orphaned = self.config["caller"] not in (None, os.getppid())
            if received == b"" or orphaned:
                self.reason = self.reason or "the caller is gone"
            if received is not None or orphaned:
                self.lifeline = None
        self._reap()
        while self.ended:
            pid = self.ended.pop()
            kill_groups([pid], self._reap)  # pool children that outlived their parent
            self._tell_sweeper(f"-{pid}")

    def _reap(self) -> None:
        # Orphaned grandchildren become the guardian's children (PR_SET_CHILD_SUBREAPER).
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.sweeper:
                self.sweeper = 0
            for name, child in list(self.pids.items()):
                if child == pid:
                    del self.pids[name]
                    self.exits.append((name, status))
                    self.ended.append(pid)

    # children

    def log(self, name: str) -> str:
        """Path of the log of the child `name`."""
        return os.path.join(self.config["folders"][0], f"{name}.log")

    def _start_sweeper(self) -> None:
        read_end, self.to_sweeper = os.pipe()
        self.sweeper = os.fork()
        if self.sweeper == 0:
            try:
                os.setsid()
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
                os.close(self.to_sweeper)
                sweep(read_end, self.folders)
            finally:
                os._exit(0)
        os.close(read_end)

    def _tell_sweeper(self, line: str) -> None:
        with suppress(OSError):
            os.write(self.to_sweeper, f"{line}\n".encode())

    def _spawn(self, name: str) -> None:
        command = self.config["server"] if name == "server" else self.config["worker"]
        guardian = os.getpid()
        # Between fork and exec our handlers would receive a signal that is meant for the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid == 0:
            try:
                for number in SIGNALS:
                    signal.signal(number, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_SETMASK, [])
                os.setsid()
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                log = os.open(self.log(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                null = os.open(os.devnull, os.O_RDONLY)
                for fd, target in ((null, 0), (log, 1), (log, 2)):
                    os.dup2(fd, target)
                if os.getppid() == guardian:  # else it died before prctl
                    os.execvp(command[0], command)  # noqa: S606 - a list from our own caller
            except OSError as error:
                os.write(2, f"cannot start {command[0]}: {error}\n".encode())
            finally:
                os._exit(127)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self.pids[name] = pid
        self.started[name] = time.monotonic()
        self._tell_sweeper(f"+{pid}")

    def _start_server(self) -> bool:
        self._spawn("server")
        deadline = time.monotonic() + SERVER_START_SECONDS
        while not self.reason:
            self._wait(0.005)
            if self.exits:
                self._fail("server", f"ended at once ({describe_exit(self.exits[0][1])})")
            elif answers_ping(self.config["socket"]):
                self._ready()
                return not self.reason
            elif time.monotonic() > deadline:
                self._fail("server", f"did not answer within {SERVER_START_SECONDS:.0f} s")
        return False

    def _ready(self) -> None:
        info = {**self.config["info"], "pid": os.getpid()}
        path = os.path.join(self.config["folders"][0], "stack.json")
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(info, file)
        os.rename(f"{path}.new", path)
        self._report({"event": "ready", "info": info})

    def _supervise_worker(self) -> None:
        exits = quick = 0
        restart_at: float | None = time.monotonic()
        while not self.reason:
            now = time.monotonic()
            if restart_at is not None and now >= restart_at:
                self._spawn("worker")
                restart_at = None
            self._wait(10.0 if self.lifeline is None and restart_at is None else 0.5)
            for name, status in self.exits:
                if name == "server":
                    self._fail("server", f"ended ({describe_exit(status)})")
                    break
                exits += 1
                quick = quick + 1 if time.monotonic() - self.started["worker"] < QUICK_EXIT_SECONDS else 1
                if quick >= MAX_QUICK_EXITS:
                    self._fail("worker", f"ended {quick} times in a row ({describe_exit(status)})")
                    break
                if exits <= 3:  # enough to show the cause, and the pipe never fills
                    log = tail(self.log("worker"))
                    self._report({"event": "worker_exit", "how": describe_exit(status), "log": log})
                restart_at = time.monotonic() + BACKOFF_SECONDS[quick - 1]
            self.exits.clear()
            for name in ("server", "worker"):
                self._trim(self.log(name))
            if not all(same_folder(*each) for each in self.folders):  # no client can find the stack
                self._fail("folder", "was removed or replaced while the stack was running")

    def _trim(self, path: str) -> None:
        # Children append, so the file can be truncated while they write. One older copy is kept.
        with suppress(OSError):
            if os.stat(path).st_size > MAX_LOG_BYTES:
                import shutil

                shutil.copyfile(path, f"{path}.1")
                os.truncate(path, 0)

    # reports and shutdown

    def _report(self, event: dict[str, Any]) -> None:
        with suppress(OSError):  # the caller may have ended
            os.write(self.reports, json.dumps(event).encode() + b"\n")

    def _fail(self, what: str, how: str) -> None:
        self.reason = f"the {what} {how}"
        event = {"event": "failed", "what": what, "how": how, "log": tail(self.log(what))}
        if self.config["failure"] is not None:
            with suppress(OSError), open(self.config["failure"], "w", encoding="utf-8") as file:
                json.dump(event, file)
        self._report(event)

    def _shut_down(self) -> None:
        if same_folder(*self.folders[0]):
            with suppress(OSError):  # no client starts to use a stack that is ending
                os.unlink(os.path.join(self.config["folders"][0], "stack.json"))
        # SIGTERM goes to the worker's parent only: pool children have no handler and would drop their task.
        # A warm shutdown of an idle Celery worker takes 2 s; an idle worker is killed at once.
        self._stop("worker", 0.0 if self._idle() else self.config["grace"])
        self._stop("server", SERVER_STOP_SECONDS)
        os.close(self.to_sweeper)
        if self.sweeper:
            with suppress(ChildProcessError):
                os.waitpid(self.sweeper, 0)
        remove(self.folders)  # the sweeper has done it, unless it was killed

    def _idle(self) -> bool:
        keys = self.config["idle_if_empty"]
        if keys is None:
            return False
        return all(send_command(self.config["socket"], f"ZCARD {key}", 1.0) == b":0\r\n" for key in keys)

    def _stop(self, name: str, grace: float) -> None:
        pid = self.pids.get(name)
        if pid is None:
            return
        with suppress(OSError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while name in self.pids and not self.force and time.monotonic() < deadline:
            self._wait(min(0.5, deadline - time.monotonic()))
        if name in self.pids:
            with suppress(OSError):  # it may not have called setsid yet
                os.kill(pid, signal.SIGKILL)
            kill_groups([pid], self._reap)
            self._tell_sweeper(f"-{pid}")


def read_config(fd: int) -> Config | None:
    """Read the first line of `fd`; None when the caller ended before it wrote a whole line."""
    data = b""
    while not data.endswith(b"\n"):
        piece = os.read(fd, 65536)
        if not piece:
            return None
        data += piece
    config: Config = json.loads(data)
    return config


def detach() -> None:
    """Fork and end the parent, for which the caller waits; init adopts the child."""
    if os.fork():
        os._exit(0)


def main() -> int:
    """Run one stack from its start to its end. Returns the exit code, always 0."""
    config = read_config(0)
    if config is None:
        return 0
    for lock in config["locks"]:
        os.set_inheritable(lock, False)
    if config["caller"] is None:
        detach()
    Guardian(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
