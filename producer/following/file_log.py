"""Writes dbt's log file, ``logs/dbt.log``.

The caller writes it, not the workers: the file belongs to the caller's project, and several machines may execute one
run. A single writer keeps the records in order and rotates the file as dbt does. A background thread reads the records
from the run's log stream in Redis, so that a slow reader of stdout does not delay them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from producer.dbt_cli.invocation import Invocation
from producer.dbt_cli.project import log_folder, project_flags
from producer.usage_errors import usage_error
from workers.contract.errors import BrokerUnavailableError
from workers.contract.events import decode_records

if TYPE_CHECKING:
    from producer.client import RelayClient

MAX_BYTES = 10 * 1024 * 1024
"""dbt's default of ``--log-file-max-bytes``."""

BACKUPS = 5
"""Number of rotated files that dbt keeps (dbt_common.events.logger)."""


class LogFile:
    """An open log file that rotates as dbt's handler does (logging.handlers.RotatingFileHandler).

    That class writes record by record, which takes forty times as long, and importing it takes a tenth of our start.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        """
        Args:
            path: of the file; created with its folders if missing.
            max_bytes: size at which the file is rotated; 0: never.

        Raises:
            OSError: the file cannot be opened.
        """
        self.path, self._max_bytes = path, max_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = self._open()

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def write(self, records: Sequence[str]) -> None:
        """Append records, each with a newline.

        Raises:
            OSError: some were not written.
        """
        pending = bytearray()
        size = os.fstat(self._fd).st_size
        for record in records:
            line = f"{record}\n"
            if 0 < self._max_bytes <= size + len(line) and size and not self._is_special():
                self._append(pending)
                pending.clear()
                self._rotate()
                size = os.fstat(self._fd).st_size
            encoded = line.encode()
            pending += encoded
            size += len(encoded)
        self._append(pending)

    def _is_special(self) -> bool:
        return self.path.exists() and not self.path.is_file()  # such as /dev/stdout

    def _append(self, data: bytes | bytearray) -> None:
        view = memoryview(bytes(data))
        while view:
            view = view[os.write(self._fd, view) :]

    def _rotate(self) -> None:
        for number in range(BACKUPS, 0, -1):
            source = f"{self.path}.{number - 1}" if number > 1 else str(self.path)
            with contextlib.suppress(FileNotFoundError):
                os.replace(source, f"{self.path}.{number}")
        fd = self._open()
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def open_log(invocation: Invocation, *, cwd: Path, environ: Mapping[str, str]) -> LogFile | None:
    """Open the log file of a command, in the folder that dbt uses. None where dbt writes no log file.

    Raises:
        DbtUsageError: the file cannot be opened. dbt ends with exit code 2 in this case, before it executes anything.
    """
    folder = log_folder(invocation, cwd, environ)
    path = folder / "dbt.log"
    try:
        if _level(invocation, cwd, environ) == "none":
            folder.mkdir(parents=True, exist_ok=True)  # dbt.events.logging.setup_event_logger
            return None
        return LogFile(path, int(invocation.options.get("log_file_max_bytes", MAX_BYTES)))
    except OSError as error:
        raise usage_error(
            "log_file_unusable",
            f"dbt's log file {path} cannot be opened: {error.strerror or error}.",
            "Give another folder with --log-path or DBT_LOG_PATH, or write no log file: --log-level-file none.",
        ) from None


def _level(invocation: Invocation, cwd: Path, environ: Mapping[str, str]) -> str:
    """The level of the log file. As in dbt.cli.flags.Flags, the console's level applies where the file has none."""
    options: dict[str, Any] = {**project_flags(invocation, cwd, environ), **invocation.options}
    return str(options.get("log_level_file") or options.get("log_level") or "debug").lower()


class LogWriter:
    """Writes the log file of one run from its log stream, in a background thread."""

    def __init__(self, client: RelayClient, run_id: str, file: LogFile) -> None:
        self._client, self._run_id, self._file = client, run_id, file
        self._problem = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dbt.log", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def finish(self, patience: float | None = None) -> str:
        """Write the remaining records after the run has ended, and close the file.

        Args:
            patience: seconds to wait for that; None: until everything is written.

        Returns:
            a sentence about missing lines; empty if the file is complete.
        """
        if not self._thread.ident:  # the run was not submitted
            self._file.close()
            return ""
        dropped = 0
        try:
            dropped = self._client.end_log(self._run_id)
        except BrokerUnavailableError as error:
            self._problem = str(error)
            self._stopped.set()
        self._thread.join(patience)
        self._stopped.set()
        if dropped and not self._problem:
            self._problem = "this process was stopped, and Redis keeps a limited number of log records"
        if not self._problem:
            return ""
        return f"{self._file.path} lacks lines of run {self._run_id}: {self._problem}"

    def _work(self) -> None:
        position = b"0"
        try:
            while not self._stopped.is_set():
                try:
                    entries = self._client.read_log(self._run_id, position)
                except BrokerUnavailableError:
                    self._stopped.wait(0.5)
                    continue
                ended = self._write(entries)
                if entries:
                    position = entries[-1][0]
                if ended:
                    return
        finally:
            self._file.close()
            with contextlib.suppress(BrokerUnavailableError):
                self._client.remove_log(self._run_id)

    def _write(self, entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> bool:
        """Write entries. Returns whether the run's last entry was among them."""
        records: list[str] = []
        for _, fields in entries:
            if b"r" in fields:
                with contextlib.suppress(msgspec.DecodeError):
                    records += decode_records(fields[b"r"])
        try:
            self._file.write(records)
        except OSError as error:  # such as a full disk: dbt and the run go on
            self._problem = error.strerror or str(error)
        return any(b"r" not in fields for _, fields in entries)
