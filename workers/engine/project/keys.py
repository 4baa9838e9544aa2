"""The key of a context: a hash of everything that the parse of a project depends on.

What an invocation passes is known before the parse (its family). What the parse then read takes part in the key too,
and is kept with it (`ReadSet`).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import dbt_common
import msgspec
from dbt.adapters.factory import FACTORY
from dbt.cli.flags import Flags
from dbt.config.runtime import RuntimeConfig
from dbt.contracts.graph.manifest import Manifest

import dbt
from workers.engine.dbt_release import release
from workers.engine.interface import RunSpec
from workers.engine.project.fingerprint import ROOT_FILES, fingerprint

_FLAGS_READ = re.compile(r"\bflags\b|\binvocation_args_dict\b")
_FLAGS_THAT_A_PARSE_MAY_READ = ("WHICH", "FULL_REFRESH", "STORE_FAILURES", "EMPTY", "DEBUG", "QUIET")

_FLAGS_OF_1_12 = ("USE_V2_PARSER", "V2_PARSER", "MAXIMUM_SEED_SIZE_MIB", "USE_CATALOGS_V2")
"""Options that a parse reads. ``~/.dbt/user_settings.yml`` may set them as well."""


class ReadSet(msgspec.Struct, frozen=True):
    """What a parse read, so that the next invocation of its family can tell whether anything changed.

    Attributes:
        env: names of environment variables.
        files: paths of files.
        folders: paths of folders whose project files were read.
        flags: whether the project's code reads dbt's flags.
    """

    env: tuple[str, ...]
    files: tuple[str, ...]
    folders: tuple[str, ...]
    flags: bool


def family_of(flags: Flags, spec: RunSpec, *, with_vars: bool = True) -> str:
    """A hash of what an invocation passes that a parse may read.

    Args:
        with_vars: whether other vars make another family.
    """
    plain = {
        "dbt": release(),
        "project_dir": str(flags.PROJECT_DIR),
        "profiles_dir": str(flags.PROFILES_DIR),
        "cwd": spec.cwd,
        "profile": flags.PROFILE,
        "target": flags.TARGET,
        "target_path": str(flags.TARGET_PATH),
        "threads": getattr(flags, "THREADS", None),
        "vars": repr(flags.VARS)
        if with_vars
        else None,  # the order within mappings counts, as it does for dbt
        "print": None
        if with_vars
        else getattr(flags, "PRINT", None),  # decides what a parse prints, not its manifest
        "warn_error": flags.WARN_ERROR,
        "warn_error_options": repr(flags.WARN_ERROR_OPTIONS),
        "parser": [flags.STATIC_PARSER, flags.USE_EXPERIMENTAL_PARSER],
        "parser of 1.12": [getattr(flags, name, None) for name in _FLAGS_OF_1_12],
        "env": {
            name: value
            for name, value in spec.env.items()
            if name.startswith("DBT_") and not name.startswith("DBT_RELAY_") and _read_by_dbt(name)
        },
    }
    return _hash(plain)


_READ_WITHOUT_A_RECORD = ("DBT_ENV_SECRET_", "DBT_ENV_CUSTOM_ENV_", "DBT_ENGINE_")
"""Prefixes: secrets of a profile, what dbt writes to the manifest, and options, whose names dbt composes."""

_DBT_NAME = re.compile(rb"\bDBT_[A-Z0-9_]+")


def _read_by_dbt(name: str) -> bool:
    """Whether dbt or an adapter may read the variable. Others are read by ``env_var()`` only, which dbt records."""
    return name.startswith(_READ_WITHOUT_A_RECORD) or name in _names_in_dbt()


@functools.cache
def _names_in_dbt() -> frozenset[str]:
    """Names of environment variables in the source of dbt and its adapters."""
    found: set[bytes] = set()
    for folder in (*dbt.__path__, *dbt_common.__path__):
        for file in Path(folder).rglob("*.py"):
            found.update(_DBT_NAME.findall(file.read_bytes()))
    return frozenset(name.decode() for name in found)


def _hash(plain: Any) -> str:
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def key_of(family: str, read: ReadSet, spec: RunSpec, flags: Flags) -> str:
    """The key for the files and the environment as they are now."""
    return _hash(
        {
            "family": family,
            "env": {name: spec.env.get(name) for name in read.env},
            "files": fingerprint(spec.project_dir, read.files, read.folders),
            "flags": [repr(getattr(flags, name, None)) for name in _FLAGS_THAT_A_PARSE_MAY_READ]
            if read.flags
            else None,
        }
    )


def read_set_of(config: RuntimeConfig, manifest: Manifest, flags: Flags) -> ReadSet:
    """What the parse that returned `manifest` read."""
    env: set[str] = {*manifest.env_vars, *config.profile_env_vars, *config.project_env_vars}
    files = [os.path.join(str(flags.PROFILES_DIR), "profiles.yml")]
    folders: list[str] = []
    internal = {"dbt", *(f"dbt_{name}" for name in FACTORY.plugins)}
    for name, project in config.load_dependencies().items():
        if name in internal:
            continue
        env.update(project.project_env_vars)
        root = project.project_root
        files.extend(os.path.join(root, file) for file in ROOT_FILES)
        for attribute in _PATHS:
            folders.extend(os.path.join(root, path) for path in getattr(project, attribute, None) or ())
    packages = os.path.join(config.project_root, config.packages_install_path)
    try:
        files.extend(os.path.join(packages, name, "dbt_project.yml") for name in sorted(os.listdir(packages)))
    except OSError:
        files.append(packages)
    return ReadSet(
        env=tuple(sorted(env)), files=tuple(files), folders=tuple(sorted(set(folders))),
        flags=_reads_flags(manifest, internal),
    )  # fmt: skip


_PATHS = (
    "model_paths", "macro_paths", "seed_paths", "test_paths", "analysis_paths", "docs_paths",
    "snapshot_paths", "asset_paths", "function_paths", "osi_paths",
)  # fmt: skip


def _reads_flags(manifest: Manifest, internal: set[str]) -> bool:
    """Whether any code of the project mentions dbt's flags (dbt's own macros do so only to execute)."""
    texts = itertools.chain(
        (macro.macro_sql for macro in manifest.macros.values() if macro.package_name not in internal),
        (getattr(node, "raw_code", "") for node in manifest.nodes.values()),
        (str(getattr(node, "unrendered_config", "")) for node in manifest.nodes.values()),
        (str(nodes) for nodes in manifest.disabled.values()),
    )
    return any(_FLAGS_READ.search(text) for text in texts)
