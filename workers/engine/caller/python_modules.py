"""Python's module path and modules, as a run's caller has them.

A dbt process imports a caller's code anew, from the caller's ``PYTHONPATH`` and from paths that the project adds
(``module_paths`` of dbt-duckdb). A warm process would find what an earlier run imported: code that was edited
since, another project's module of the same name, state that an earlier run left. So modules that do not belong
to the worker's installation are forgotten when the process turns to another run. Within a run they stay, as in
dbt's own process.
"""

from __future__ import annotations

import contextlib
import os
import site
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ExtensionFileLoader
from types import ModuleType
from typing import Any

from dbt.plugins import manager as dbt_plugins

_CODE = (".py", ".pyc", ".so")


class CallerModules:
    """The modules of this process that came from its callers' paths."""

    def __init__(self) -> None:
        self._own = {_top(name) for name in list(sys.modules)}
        """Top-level names that the worker itself imported. They are never forgotten."""
        self._installed = _installed_folders(self._own)
        """Folders whose modules are part of the worker's installation, in real paths."""
        self._pythonpath, self._own_path = os.environ.get("PYTHONPATH", ""), sys.path[:]
        launched_with = {os.path.realpath(entry) for entry in self._pythonpath.split(os.pathsep) if entry}
        launched_with -= self._installed
        self._base = [entry for entry in sys.path if os.path.realpath(entry) not in launched_with]
        """The module path without the ``PYTHONPATH`` of the caller that started an embedded worker."""
        self._run = ""
        self._path: list[str] = []
        self._given: list[str] = []
        self._imported: set[str] = set()
        """Top-level names that steps imported."""

    @contextlib.contextmanager
    def for_run(self, run_id: str, env: Mapping[str, str], cwd: str) -> Iterator[None]:
        """The module path is the caller's, and their modules are those of this run alone.

        Args:
            run_id: of the run that is executing.
            env: its caller's environment.
            cwd: its caller's working directory, to which relative entries of ``PYTHONPATH`` belong.
        """
        before, filters = sys.path[:], warnings.filters[:]
        if run_id != self._run:
            self._turn_to(run_id, env, cwd)
        sys.path[:] = self._path
        known = set(sys.modules)
        try:
            yield
        finally:
            self._path = sys.path[:]  # with what the run added: dbt-duckdb adds its paths once
            self._imported.update(_top(name) for name in list(sys.modules) if name not in known)
            self._imported -= self._own
            sys.path[:] = before
            if warnings.filters != filters:
                _set_filters(filters)

    def _turn_to(self, run_id: str, env: Mapping[str, str], cwd: str) -> None:
        pythonpath = env.get("PYTHONPATH", "")
        given = [] if pythonpath == self._pythonpath else _path_entries(pythonpath, cwd)
        if given or self._given:  # dbt keeps what it found of dbt_* modules on the path
            dbt_plugins._get_dbt_modules.cache_clear()
        for entry in {*self._path, *given, *self._given} - set(self._base):
            sys.path_importer_cache.pop(entry, None)  # files may have come within the resolution of its clock
        self._forget(given)
        rest = self._own_path if pythonpath == self._pythonpath else self._base
        self._path = list(dict.fromkeys([*given, *rest]))
        self._given, self._run = given, run_id
        _set_filters(warnings.filters[:])  # a warning that another run showed is shown again

    def _forget(self, given: list[str]) -> None:
        if not self._imported:
            return
        shadowed = _names_in(given)
        gone = {
            name for name in self._imported
            if not self._belongs_here(name) or (name in shadowed and not self._is_found_in(name, given))
        } - _with_extensions(self._imported)  # fmt: skip
        for name in list(sys.modules):
            if _top(name) in gone:
                del sys.modules[name]
        self._imported -= gone

    def _belongs_here(self, name: str) -> bool:
        """Whether a module is part of the worker's installation."""
        folders = _folders_of(sys.modules.get(name))
        return not folders or all(folder in self._installed for folder in folders)

    def _is_found_in(self, name: str, given: list[str]) -> bool:
        return any(folder in map(os.path.realpath, given) for folder in _folders_of(sys.modules.get(name)))


def _set_filters(filters: Sequence[Any]) -> None:
    warnings.resetwarnings()  # tells Python that warnings shown once may be shown again
    warnings.filters[:] = filters  # type: ignore[index]


def _top(name: str) -> str:
    return name.partition(".")[0]


def _path_entries(pythonpath: str, cwd: str) -> list[str]:
    """The entries that Python puts into `sys.path` for a ``PYTHONPATH``: absolute, each once."""
    if not pythonpath:
        return []
    entries = (os.path.abspath(os.path.join(cwd, entry)) for entry in pythonpath.split(os.pathsep))
    return list(dict.fromkeys(entries))


def _installed_folders(own: set[str]) -> set[str]:
    """Folders of the interpreter and of its site packages, and wherever the worker's own modules came from."""
    folders = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    found = {os.path.realpath(folder) for folder in folders}
    for name in own - {"__main__", "__mp_main__"}:
        found.update(_folders_of(sys.modules.get(name)))
    return found


def _folders_of(module: ModuleType | None) -> set[str]:
    """The entries of the module path from which a top-level module came; empty for one without a file."""
    places = [getattr(module, "__file__", None)]
    if getattr(module, "__path__", None) is not None:
        places = list(getattr(module, "__path__", ()))
    return {os.path.realpath(os.path.dirname(place)) for place in places if isinstance(place, str)}


def _names_in(entries: list[str]) -> set[str]:
    """Names of the top-level modules and regular packages in folders."""
    names: set[str] = set()
    for entry in entries:
        with contextlib.suppress(OSError):
            for found in os.scandir(entry):
                stem, _, rest = found.name.partition(".")
                if rest:
                    if f".{rest}".endswith(_CODE):
                        names.add(stem)
                elif os.path.exists(os.path.join(found.path, "__init__.py")):
                    names.add(stem)
    return names


def _with_extensions(names: set[str]) -> set[str]:
    """Those of the top-level `names` that have loaded an extension module, which no process can load twice."""
    return {
        _top(name)
        for name, module in list(sys.modules.items())
        if _top(name) in names and isinstance(_loader_of(module), ExtensionFileLoader)
    }


def _loader_of(module: ModuleType) -> object:
    return getattr(getattr(module, "__spec__", None), "loader", None)
