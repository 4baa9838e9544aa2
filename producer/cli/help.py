"""What ``--help`` and ``--version`` say: plain text, made without click or rich."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from producer.dbt_cli.options import Option, Table, packaged

OWN_COMMANDS = {
    "up": "start the private Redis and warm workers, and keep them",
    "down": "stop them",
    "status": "say what is running, here or on the configured broker",
    "worker": "start a worker on the configured broker",
    "drain": "stop workers: they finish or hand back what they execute",
    "flower": "start Flower, the web page that shows tasks and workers",
    "runs": "list runs",
    "watch": "follow a run from its first line",
    "result": "show what became of a run: nodes, times, errors, fixes",
    "cancel": "stop a run",
    "purge": "remove ended runs and what dead workers left",
    "verify": "compare with plain dbt: same commands, two copies of project and warehouse",
    "demo": "simulate three years with the project in ./dbt",
}
"""Commands that are not dbt's, each with what it does."""

DBT_COMMANDS = {
    "build": "seeds, models, snapshots and tests, in order",
    "clean": "remove what clean-targets names",
    "clone": "clone relations of another state",
    "compile": "write the SQL of nodes, and run none",
    "debug": "check project, profile and connection",
    "deps": "install packages",
    "docs generate": "write the documentation",
    "init": "make a new project",
    "list": "list nodes (also ls)",
    "parse": "parse the project",
    "retry": "run again what failed in the command before, or in the run that is named",
    "run": "models",
    "run-operation": "call a macro",
    "seed": "load CSV files",
    "show": "print rows of a node or a query",
    "snapshot": "take snapshots",
    "source freshness": "check how old sources are",
    "test": "tests",
}
"""dbt's commands, each with what it does; ``docs serve`` is not for a worker."""

_METAVARS = {
    "text": "TEXT",
    "int": "INTEGER",
    "path": "PATH",
    "yaml": "YAML",
    "datetime": "DATE",
    "bool": "BOOLEAN",
}


def root_help() -> str:
    """The text of ``dbt-relay --help``."""
    return "\n".join(
        [
            "Usage: dbt-relay [OPTIONS] COMMAND [ARGS]...",
            "",
            "  Runs dbt commands on warm workers, one task per node. Takes dbt's own arguments and gives",
            "  dbt's own lines, exit code and artifacts: put dbt-relay where dbt stood.",
            "",
            "  Commands go to DBT_RELAY_BROKER_URL or REDIS_URL where one is set, else to the stack of",
            "  `dbt-relay up`, else to a private one that ends with the command.",
            "",
            "  Ctrl-C cancels the run and waits for its end; a second one does not wait. Time limits in seconds:",
            "  DBT_RELAY_NODE_SOFT_TIME_LIMIT and DBT_RELAY_NODE_TIME_LIMIT for each node,",
            "  DBT_RELAY_RUN_DEADLINE for the run, from its submission.",
            "",
            "dbt's commands:",
            *_table(DBT_COMMANDS),
            "",
            "dbt-relay's own commands:",
            *_table(OWN_COMMANDS),
            "",
            "Options:",
            "  -h, --help     this text; after a command, its options",
            "  -V, --version  the version",
            "  dbt's global options, such as --debug or --target, may stand before its command.",
        ]
    )


def command_help(words: str, table: Table | None = None) -> str:
    """The text of ``--help`` after a dbt command, or after a group such as ``docs``.

    Args:
        table: the options of dbt; the packaged ones where none is given.
    """
    table = table or packaged()
    try:
        spec = table.command(words)
    except KeyError:
        spec = table.unknown_command(words)
    lines = [spec.usage().splitlines()[0], ""]
    if spec.group:
        lines += ["Commands:", *(f"  {word}" for word in sorted(table.subcommands(words)))]
        return "\n".join(lines)
    if words in DBT_COMMANDS:
        lines += [f"  dbt's own command ({DBT_COMMANDS[words]}), run on warm workers.", ""]
    if words == "retry":
        lines[0] += " [RUN]"
        lines += [
            "  RUN is a run id of `dbt-relay runs`, the beginning of one, or `latest`: what failed and was",
            "  skipped in that run is run again. Without it, dbt looks into the target folder.",
            "",
        ]
    lines.append(
        f"Options (those of dbt-core {' and '.join(_series(table))}; dbt's documentation says what each does:"
    )
    lines.append("https://docs.getdbt.com/reference/dbt-commands):")
    for option in spec.options:
        if not option.hidden:
            lines.append(f"  {_option_line(option)}")
    return "\n".join(lines)


def version_text(environ: Mapping[str, str]) -> str:
    """The text of ``--version``: of dbt-relay, and of the dbt that its workers have."""
    from importlib.metadata import PackageNotFoundError, version

    from producer.worker_tables import installations

    try:
        own = version("dbt-relay")
    except PackageNotFoundError:
        own = "from a source tree"
    known = f"understands the commands of dbt-core {', '.join(_series(packaged()))}"
    return "\n".join([f"dbt-relay {own}", known, *installations(environ)])


def _series(table: Table) -> list[str]:
    """``1.10``, ``1.11``: the releases whose options are known."""
    return [".".join(release.split(".")[:2]) for release in table.dbt_versions()]


def _option_line(option: Option) -> str:
    names = ", ".join(sorted(option.opts, key=lambda name: (name.startswith("--"), len(name))))
    if option.off:
        names += f" / {', '.join(option.off)}"
    if not option.takes_value:
        return names
    metavar = f"[{'|'.join(option.choices)}]" if option.choices else _METAVARS[option.kind]
    line = f"{names} {metavar}{'...' if option.multi else ''}"
    return textwrap.fill(line, 100, subsequent_indent=" " * 6, break_on_hyphens=False, break_long_words=False)


def _table(rows: dict[str, str]) -> list[str]:
    width = max(map(len, (*DBT_COMMANDS, *OWN_COMMANDS)))
    return [f"  {name:<{width}}  {text}" for name, text in rows.items()]
