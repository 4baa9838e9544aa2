"""Files with the results of one-off runs."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from producer.following import kept_runs
from producer.following.kept_runs import KeptRun, keep, kept_run, kept_summaries, remove_kept
from workers.contract.keys import new_run_id
from workers.contract.messages import RunRequest, encode_request
from workers.contract.run_store import FinalRecord


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"DBT_RELAY_RUNTIME_DIR": str(tmp_path / "r")}


def run(run_id: str) -> KeptRun:
    request = RunRequest(run_id=run_id, args=("build",), cwd="/p", project_dir="/p")
    last = FinalRecord(return_code=1)
    fields = {
        "request": encode_request(request).decode(), "final": msgspec.json.encode(last).decode(),
        "state": "failed", "done": "2", "total": "3", "created": "10", "ended": "12.5",
    }  # fmt: skip
    return KeptRun(fields=fields, lines=["one", "two"])


def test_kept_run_is_read_back(environ: dict[str, str]) -> None:
    run_id = new_run_id()
    assert keep(environ, run_id, run(run_id))
    found = kept_run(environ, run_id)
    assert found is not None
    result = found.result()
    assert (result.run_id, result.return_code, result.stdout) == (run_id, 1, "one\ntwo\n")
    assert result.execution_time == 2.5
    assert [(each.run_id, each.state, each.done, each.total) for each in kept_summaries(environ)] == [
        (run_id, "failed", 2, 3)
    ]


def test_reading_without_files_creates_no_folder(environ: dict[str, str], tmp_path: Path) -> None:
    assert kept_summaries(environ) == []
    assert kept_run(environ, new_run_id()) is None
    assert not (tmp_path / "r").exists()


def test_damaged_and_foreign_files_are_ignored(environ: dict[str, str], tmp_path: Path) -> None:
    run_id = new_run_id()
    keep(environ, run_id, run(run_id))
    (tmp_path / "r" / "ended" / run_id).write_bytes(b"half")
    (tmp_path / "r" / "ended" / "stranger").mkdir()
    assert kept_summaries(environ) == []
    assert kept_run(environ, "../ended/x") is None


def test_only_the_newest_runs_are_kept(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_runs, "MOST", 3)
    ids = [new_run_id(now=1e9 + number) for number in range(5)]
    for run_id in ids:
        assert keep(environ, run_id, run(run_id))
    assert [each.run_id for each in kept_summaries(environ)] == ids[:1:-1]


def test_kept_runs_expire_as_results_do(environ: dict[str, str], tmp_path: Path) -> None:
    old, new = new_run_id(now=1e9), new_run_id()
    keep(environ, old, run(old))
    file = tmp_path / "r" / "ended" / old
    os.utime(file, (file.stat().st_mtime - 90000,) * 2)
    assert kept_run(environ, old) is None
    assert kept_run({**environ, "DBT_RELAY_RESULT_TTL": "100000"}, old) is not None
    keep(environ, new, run(new))
    assert not file.exists()


def test_remove_kept_does_not_report_expired_files_and_leaves_foreign_ones(
    environ: dict[str, str], tmp_path: Path
) -> None:
    old, new = new_run_id(now=1e9), new_run_id()
    for run_id in (new, old):
        keep(environ, run_id, run(run_id))
    folder = tmp_path / "r" / "ended"
    os.utime(folder / old, (1e9, 1e9))
    (folder / "foreign").touch()
    assert remove_kept(environ) == ([], [new])
    assert remove_kept(environ, named=[old]) == ([], [])
    assert remove_kept(environ, older_than=0) == ([new], [])
    assert [each.name for each in folder.iterdir()] == ["foreign"]


def test_keep_fails_without_a_usable_folder(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "r").write_text("no folder")
    assert not keep(environ, "20260101T000000-0123456789ab", run("20260101T000000-0123456789ab"))
