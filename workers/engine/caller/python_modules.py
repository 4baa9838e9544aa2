"""Gives each run the caller's ``sys.path``, and unloads the modules that earlier runs imported.

A new dbt process imports the caller's code from the caller's ``PYTHONPATH`` and from paths that the project adds
(``module_paths`` of dbt-duckdb). A warm process would reuse modules of an earlier run: outdated code, another
project's module of the same name, or state of that run. So a process that switches to another run unloads every
module that does not belong to the worker's installation. Within a run modules stay loaded, as in dbt.
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

_CODE_SUFFIXES = (".py", ".pyc", ".so")


class CallerModules:
    """The module path of this process, and the modules that were imported from callers' paths."""

    def __init__(self) -> None:
        self._own = {_top(name) for name in list(sys.modules)}
        """Top-level names that the worker itself imported. They are never unloaded."""
        self._installed = _installed_folders(self._own)
        """Real paths of folders whose modules are part of the worker's installation."""
        self._pythonpath, self._own_path = os.environ.get("PYTHONPATH", ""), sys.path[:]
        launched_with = {os.path.realpath(entry) for entry in self._pythonpath.split(os.pathsep) if entry}
        launched_with -= self._installed
        self._base = [entry for entry in sys.path if os.path.realpath(entry) not in launched_with]
        """``sys.path`` without the ``PYTHONPATH`` of the caller that started an embedded worker."""
        self._run = ""
        self._path: list[str] = []
        self._given: list[str] = []
        self._imported: set[str] = set()
        """Top-level names that steps imported."""

    @contextlib.contextmanager
    def for_run(self, run_id: str, env: Mapping[str, str], cwd: str) -> Iterator[None]:
        """Use the caller's module path, with no module that another run imported.

        Args:
            run_id: the run that is executing.
            env: the caller's environment.
            cwd: the caller's working directory; relative entries of ``PYTHONPATH`` start there.
        """
        before, filters = sys.path[:], warnings.filters[:]
        if run_id != self._run:
            self._switch_run(run_id, env, cwd)
        sys.path[:] = self._path
        known = set(sys.modules)
        try:
            yield
        finally:
            self._path = sys.path[:]  # with paths that the run added: dbt-duckdb adds its paths only once
            self._imported.update(_top(name) for name in list(sys.modules) if name not in known)
            self._imported -= self._own
            sys.path[:] = before
            if warnings.filters != filters:
                _set_filters(filters)

    def _switch_run(self, run_id: str, env: Mapping[str, str], cwd: str) -> None:
        pythonpath = env.get("PYTHONPATH", "")
        given = [] if pythonpath == self._pythonpath else _path_entries(pythonpath, cwd)
        if given or self._given:  # dbt caches the dbt_* modules that it finds on the path
            dbt_plugins._get_dbt_modules.cache_clear()
        for entry in {*self._path, *given, *self._given} - set(self._base):
            sys.path_importer_cache.pop(entry, None)  # misses files newer than the mtime resolution
        self._unload(given)
        rest = self._own_path if pythonpath == self._pythonpath else self._base
        self._path = list(dict.fromkeys([*given, *rest]))
        self._given, self._run = given, run_id
        _set_filters(warnings.filters[:])  # show again the warnings that another run showed

    def _unload(self, given: list[str]) -> None:
        if not self._imported:
            return
        shadowed = _names_in(given)
        unloaded = {
            name for name in self._imported
            if not self._is_installed(name) or (name in shadowed and not self._is_from(name, given))
        } - _with_extensions(self._imported)  # fmt: skip
        for name in list(sys.modules):
            if _top(name) in unloaded:
                del sys.modules[name]
        self._imported -= unloaded

    def _is_installed(self, name: str) -> bool:
        """Whether a module is part of the worker's installation."""
        folders = _folders_of(sys.modules.get(name))
        return not folders or all(folder in self._installed for folder in folders)

    def _is_from(self, name: str, given: list[str]) -> bool:
        return any(folder in map(os.path.realpath, given) for folder in _folders_of(sys.modules.get(name)))


def _set_filters(filters: Sequence[Any]) -> None:
    warnings.resetwarnings()  # resets Python's record of warnings shown once
    warnings.filters[:] = filters  # type: ignore[index]


def _top(name: str) -> str:
    return name.partition(".")[0]


def _path_entries(pythonpath: str, cwd: str) -> list[str]:
    """The absolute, distinct entries that Python adds to `sys.path` for a ``PYTHONPATH``."""
    if not pythonpath:
        return []
    entries = (os.path.abspath(os.path.join(cwd, entry)) for entry in pythonpath.split(os.pathsep))
    return list(dict.fromkeys(entries))


def _installed_folders(own: set[str]) -> set[str]:
    """Folders of the interpreter, of its site packages, and of the modules that the worker itself imported."""
    folders = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    found = {os.path.realpath(folder) for folder in folders}
    for name in own - {"__main__", "__mp_main__"}:
        found.update(_folders_of(sys.modules.get(name)))
    return found


def _folders_of(module: ModuleType | None) -> set[str]:
    """Folders of `sys.path` that contain a top-level module; empty for a module without a file."""
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
                    if f".{rest}".endswith(_CODE_SUFFIXES):
                        names.add(stem)
                elif os.path.exists(os.path.join(found.path, "__init__.py")):
                    names.add(stem)
    return names


def _with_extensions(names: set[str]) -> set[str]:
    """The `names` that loaded an extension module, which no process can load twice."""
    return {
        _top(name)
        for name, module in list(sys.modules.items())
        if _top(name) in names and isinstance(_loader_of(module), ExtensionFileLoader)
    }


def _loader_of(module: ModuleType) -> object:
    return getattr(getattr(module, "__spec__", None), "loader", None)
