"""Copies dbt projects for tests, because dbt writes into a project."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "dbt"
PROJECTS = ROOT / "tests" / "projects"

_GENERATED = shutil.ignore_patterns("target", "logs", "dbt_packages", ".user.yml", "*.duckdb", "*.duckdb.wal")


def copy_project(name: str, destination: Path) -> Path:
    """Copy a project to `destination` and install its local packages. Returns `destination`.

    Args:
        name: a folder of tests/projects, or ``demo`` for the project in dbt/.
        destination: must not exist yet, or be empty.
    """
    source = DEMO if name == "demo" else PROJECTS / name
    shutil.copytree(source, destination, ignore=_GENERATED, dirs_exist_ok=True)
    install_local_packages(destination)
    return destination


def install_local_packages(project: Path) -> None:
    """Link ``local:`` packages under dbt_packages, as ``dbt deps`` does."""
    packages = project / "packages.yml"
    if not packages.exists():
        return
    installed = project / "dbt_packages"
    installed.mkdir()
    for package in yaml.safe_load(packages.read_text())["packages"]:
        folder = (project / package["local"]).resolve()
        name = yaml.safe_load((folder / "dbt_project.yml").read_text())["name"]
        (installed / name).symlink_to(folder, target_is_directory=True)
