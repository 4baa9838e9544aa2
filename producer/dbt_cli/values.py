"""Converts the text of dbt's options to values.

Mirrors the types of click and of dbt.cli.option_types, with the same error texts.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from producer.dbt_cli.options import Option
from producer.dbt_cli.vars import load_mapping
from producer.usage_errors import did_you_mean, usage_error

TRUE_WORDS = frozenset({"1", "true", "t", "yes", "y", "on"})
FALSE_WORDS = frozenset({"0", "false", "f", "no", "n", "off", ""})
"""click.types.BoolParamType."""

DATE_FORMATS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S")
"""click.types.DateTime."""


def convert(option: Option, raw: Any, where: str, cwd: Path, usage: str) -> Any:
    """Convert the text of an option.

    Args:
        raw: text; a list of texts for an option with several values; or a bool for a flag.
        where: the option's name in the error, with quotes and environment variable.
        cwd: where relative paths start.
        usage: dbt's usage lines, for the error.

    Raises:
        DbtUsageError: dbt does not accept the value.
    """
    if isinstance(raw, bool):
        return raw
    try:
        if option.multi:
            return tuple(_one(option, word, cwd) for word in raw)
        return _one(option, raw, cwd)
    except ValueError as error:
        message = f"Invalid value for {where}: {error}"
        raise usage_error(_CODES.get(option.kind, "invalid_value"), message, detail=usage) from None


def _one(option: Option, text: str, cwd: Path) -> Any:
    if option.kind == "path":
        return _path(option, text, cwd)
    if option.kind == "choice":
        return _choice(text, option.choices, option.case_sensitive)
    if option.kind == "yaml":
        return load_mapping(text, max(option.opts, key=len))
    reader = _READERS.get(option.kind)
    return text if reader is None else reader(text)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a valid integer.") from None


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    known = ", ".join(sorted(TRUE_WORDS | FALSE_WORDS - {""}))
    raise ValueError(f"{text!r} is not a valid boolean. Recognized values: {known}")


def _moment(text: str) -> datetime:
    for form in DATE_FORMATS:
        with suppress(ValueError):
            return datetime.strptime(text, form)  # noqa: DTZ007 - dbt accepts them without a time zone
    raise ValueError(f"{text!r} does not match the formats {', '.join(map(repr, DATE_FORMATS))}.")


def _choice(text: str, choices: Sequence[str], case_sensitive: bool) -> str:
    for choice in choices:
        if text == choice or (not case_sensitive and text.lower() == choice.lower()):
            return choice
    known = ", ".join(map(repr, choices))
    raise ValueError(f"{text!r} is not one of {known}.{did_you_mean(text.lower(), choices)}")


def _path(option: Option, text: str, cwd: Path) -> str:
    path = cwd / text if text else text  # an empty path is not the folder itself
    noun = "File" if not option.dir_ok else "Directory" if not option.file_ok else "Path"
    try:
        mode = os.stat(path).st_mode
    except OSError:
        if option.must_exist:
            raise ValueError(f"{noun} {text!r} does not exist.") from None
        return text
    if not option.file_ok and stat.S_ISREG(mode):
        raise ValueError(f"{noun} {text!r} is a file.")
    if not option.dir_ok and stat.S_ISDIR(mode):
        raise ValueError(f"{noun} {text!r} is a directory.")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{noun} {text!r} is not readable.")
    return text


_READERS: dict[str, Callable[[str], Any]] = {
    "int": _integer,
    "flag": _boolean,  # from an environment variable
    "bool": _boolean,
    "datetime": _moment,
}
_CODES = {
    "int": "invalid_integer",
    "flag": "invalid_boolean",
    "bool": "invalid_boolean",
    "datetime": "invalid_date",
    "choice": "invalid_choice",
    "path": "invalid_path",
}
