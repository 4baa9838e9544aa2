"""The documents say what is true."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from workers.contract.errors.error_codes import ERROR_CODES
from workers.contract.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
BASES = ("", "producer", "workers", "workers/contract", "workers/contract/errors", "workers/engine")
"""Folders that paths in documents are relative to: docs/architecture.md describes their subfolders."""
FOLDERS = {
    "benchmarks", "docs", "producer", "scripts", "tests", "workers",
    *(path.name for base in BASES[1:] for path in (ROOT / base).iterdir() if path.is_dir()),
}  # fmt: skip
PAGES = (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))


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


def test_links_lead_to_files_and_headings() -> None:
    for page in PAGES:
        for target, heading in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text()):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            assert not heading or heading in anchors(file), f"{page.name}: {target}#{heading}"


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_files_named_in_documents_exist() -> None:
    named = {
        (page.name, path)
        for page in PAGES
        if page.name != "CHANGELOG.md"
        for path in re.findall(r"`([\w-]+/[\w./-]*)`", page.read_text())
        if path.partition("/")[0] in FOLDERS
    }
    assert named
    assert sorted(each for each in named if not any((ROOT / base / each[1]).exists() for base in BASES)) == []
