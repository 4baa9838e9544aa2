"""Keeps the results of one-off runs in files, so that ``dbt-relay result`` finds them after their private stack ended.

One file a run in the user's runtime folder, ``<base>/ended/<run id>``, readable only by the user. The files expire as
results in Redis do (``DBT_RELAY_RESULT_TTL``), and only the newest `MOST` are kept.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from producer.client import ConsoleLines, RunSummary, result_of
from producer.embedded.runtime_dirs import base_dir, check_private, existing_base
from workers.contract.errors import DbtError
from workers.contract.keys import is_run_id
from workers.contract.messages import decode_request
from workers.contract.results import DbtResult
from workers.contract.run_store import FinalRecord
from workers.contract.settings import read_settings

FOLDER = "ended"
MOST = 50


class KeptRun(msgspec.Struct, frozen=True, kw_only=True):
    """A one-off run that has ended.

    Attributes:
        fields: of its hash in Redis: request, final record, facts.
        lines: dbt's console.
    """

    fields: dict[str, str]
    lines: list[str]

    def result(self) -> DbtResult:
        """Build the result as `RelayClient.result` does."""
        last = msgspec.json.decode(self.fields["final"], type=FinalRecord)
        return result_of(decode_request(self.fields["request"]), last, self.fields, ConsoleLines(self.lines))

    def summary(self) -> RunSummary:
        """Build the summary as `RelayClient.runs` does."""
        return RunSummary.of(decode_request(self.fields["request"]), self.fields)


def keep(environ: Mapping[str, str], run_id: str, run: KeptRun) -> bool:
    """Write the file of a run. Returns whether this succeeded."""
    try:
        folder = check_private(base_dir(environ) / FOLDER)
        _expire(folder, environ)
        temporary = folder / f"{run_id}.{os.getpid()}.tmp"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(zlib.compress(msgspec.json.encode(run), 1))
        temporary.replace(folder / run_id)
    except (OSError, DbtError):
        return False
    return True


def kept_run(environ: Mapping[str, str], run_id: str) -> KeptRun | None:
    """Read a kept run; None where there is none of this id, or its file cannot be read."""
    folder = _folder(environ)
    if folder is None or not is_run_id(run_id) or not _is_fresh(folder / run_id, environ):
        return None
    with suppress(OSError, zlib.error, msgspec.DecodeError):
        return msgspec.json.decode(zlib.decompress((folder / run_id).read_bytes()), type=KeptRun)
    return None


def kept_summaries(environ: Mapping[str, str]) -> list[RunSummary]:
    """List the kept runs, the newest first."""
    folder = _folder(environ)
    names = sorted(os.listdir(folder), reverse=True) if folder is not None else []
    runs = [kept_run(environ, name) for name in names]
    return [run.summary() for run in runs if run is not None]


def remove_kept(
    environ: Mapping[str, str],
    *,
    older_than: float | None = None,
    named: Collection[str] | None = None,
) -> tuple[list[str], list[str]]:
    """Remove kept runs by the age rules of `workers.contract.purge.purge`.

    Args:
        older_than: remove runs that ended at least so many seconds ago; None removes none.
        named: remove only these runs, regardless of their age.

    Returns:
        the ids of removed runs and of runs that are too recent, oldest first. Expired runs are removed too, and are
        in neither list.
    """
    removed: list[str] = []
    recent: list[str] = []
    folder = _folder(environ)
    for path in [] if folder is None else sorted(folder.iterdir()):
        if not is_run_id(path.name):
            continue
        if not _is_fresh(path, environ):
            _remove(path)
        elif named is not None:
            if path.name in named and _remove(path):
                removed.append(path.name)
        elif older_than is not None and _age(path) >= older_than:
            if _remove(path):
                removed.append(path.name)
        else:
            recent.append(path.name)
    return removed, recent


def _folder(environ: Mapping[str, str]) -> Path | None:
    base = existing_base(environ)
    folder = None if base is None else base / FOLDER
    return folder if folder is not None and folder.is_dir() else None


def _age(path: Path) -> float:
    """Seconds since the file was written, which was when its run ended; infinite for a file that is gone."""
    with suppress(OSError):
        return time.time() - path.stat().st_mtime
    return float("inf")


def _is_fresh(path: Path, environ: Mapping[str, str]) -> bool:
    return _age(path) < read_settings(environ).result_ttl


def _remove(path: Path) -> bool:
    """Remove a file. Returns whether it was there and could be removed."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _expire(folder: Path, environ: Mapping[str, str]) -> None:
    """Remove expired files, and the oldest ones, so that there is room for one more."""
    for place, path in enumerate(sorted(folder.iterdir(), reverse=True)):
        if place >= MOST - 1 or not _is_fresh(path, environ):
            _remove(path)
