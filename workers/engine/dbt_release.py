"""The installed releases of dbt-core and its adapters."""

from __future__ import annotations

import importlib
import pkgutil

import dbt.adapters
import dbt.version


def release() -> str:
    """The release of dbt-core, such as ``1.11.16``."""
    return str(dbt.version.__version__)


def adapters() -> dict[str, str]:
    """The installed adapters by name, each with its release, as ``dbt --version`` lists them."""
    found: dict[str, str] = {}
    for module in pkgutil.iter_modules(dbt.adapters.__path__):
        try:
            about = importlib.import_module(f"dbt.adapters.{module.name}.__version__")
        except ImportError:
            continue  # a module of dbt-adapters, or an adapter without a release
        found[module.name] = str(getattr(about, "version", ""))
    return found
