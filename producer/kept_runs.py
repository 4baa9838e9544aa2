"""Results of runs whose private stack ended with their command, kept in files so that ``dbt-relay result`` finds them.

One file a run in the user's runtime folder, ``<base>/ended/<run id>``, readable by the user alone. They expire as
results in Redis do (``DBT_RELAY_RESULT_TTL``), and the newest `MOST` are kept.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from producer.client import RunSummary, result_of
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
    """A run that ended.

    Attributes:
        fields: of its hash in Redis: request, final record, facts.
        lines: dbt's console.
    """

    fields: dict[str, str]
    lines: list[str]

    def result(self) -> DbtResult:
        """The result as `RelayClient.result` gives it."""
        last = msgspec.json.decode(self.fields["final"], type=FinalRecord)
        return result_of(decode_request(self.fields["request"]), last, self.fields, self.lines)

    def summary(self) -> RunSummary:
        """The run as `RelayClient.runs` lists it."""
        return RunSummary.of(decode_request(self.fields["request"]), self.fields)


def keep(environ: Mapping[str, str], run_id: str, run: KeptRun) -> bool:
    """Keep a run; whether that could be done."""
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
    """A run that is kept, or None."""
    folder = _folder(environ)
    if folder is None or not is_run_id(run_id) or not _is_fresh(folder / run_id, environ):
        return None
    with suppress(OSError, zlib.error, msgspec.DecodeError):
        return msgspec.json.decode(zlib.decompress((folder / run_id).read_bytes()), type=KeptRun)
    return None


def kept_summaries(environ: Mapping[str, str]) -> list[RunSummary]:
    """Every run that is kept, the newest first."""
    folder = _folder(environ)
    names = sorted(os.listdir(folder), reverse=True) if folder is not None else []
    runs = [kept_run(environ, name) for name in names]
    return [run.summary() for run in runs if run is not None]


def _folder(environ: Mapping[str, str]) -> Path | None:
    base = existing_base(environ)
    folder = None if base is None else base / FOLDER
    return folder if folder is not None and folder.is_dir() else None


def _is_fresh(path: Path, environ: Mapping[str, str]) -> bool:
    with suppress(OSError):
        return time.time() - path.stat().st_mtime < read_settings(environ).result_ttl
    return False


def _expire(folder: Path, environ: Mapping[str, str]) -> None:
    """Make room for one more."""
    runs: Sequence[Path] = sorted(folder.iterdir(), reverse=True)
    for place, path in enumerate(runs):
        if place >= MOST - 1 or not _is_fresh(path, environ):
            with suppress(OSError):
                path.unlink()
