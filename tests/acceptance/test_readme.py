"""What README shows is executed as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import without_coverage
from tests.support.projects import copy_project

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def test_readme_begins_with_the_two_commands() -> None:
    first = blocks("console")[0]
    assert [line.split()[:2] for line in first.splitlines()] == [["make", "demo"], ["make", "test"]]
    assert README.read_text().startswith("```console\n")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_python_examples_run_as_they_stand(tmp_path: Path) -> None:
    copy_project("demo", tmp_path / "dbt")
    examples = blocks("python")
    assert len(examples) >= 2
    script = tmp_path / "example.py"
    script.write_text("\n".join(examples))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env={**without_coverage(), "DO_NOT_TRACK": "1"},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Completed successfully" in done.stdout
    assert "> " in done.stdout
