"""The documents say what is true."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from workers.contract.errors.error_codes import ERROR_CODES
from workers.contract.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_every_code_is_documented_with_its_category(code: str) -> None:
    rows = [row for row in (ROOT / "docs" / "errors.md").read_text().splitlines() if row.startswith("| ")]
    mark = f"`{code}`\\*" if ERROR_CODES[code].retryable else f"`{code}`"
    assert any(
        row.startswith(f"| {ERROR_CODES[code].category.value} |")
        and mark in [cell.strip() for cell in row.split("|")[3].split(",")]
        for row in rows
        if row.count("|") == 4
    )


def test_every_setting_is_in_the_readme() -> None:
    documented = set(re.findall(rf"`{PREFIX}([A-Z_]+)`", (ROOT / "README.md").read_text()))
    settings = {field.name.upper() for field in msgspec.structs.fields(Settings)} - {"EMBEDDED"}
    assert settings <= documented


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_files_named_in_documents_exist() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    named = {
        (page.name, path)
        for page in pages
        if page.name != "CHANGELOG.md"
        for path in re.findall(
            r"`((?:workers|producer|tests|benchmarks|scripts|docs)/[\w./-]*)`", page.read_text()
        )
    }
    assert named
    assert sorted(each for each in named if not (ROOT / each[1]).exists()) == []
