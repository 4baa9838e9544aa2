"""The texts of ``--help`` and ``--version``, without click and rich."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from producer.dbt_cli.options import Option, Table, packaged

OWN_COMMANDS = {
    "up": "start the warm stack: a private Redis and workers that stay between commands",
    "down": "stop the warm stack",
    "status": "show workers and active runs, of the configured broker or the warm stack",
    "worker": "start a worker on the configured broker",
    "drain": "stop workers after they have finished or requeued their steps",
    "flower": "start Flower, the web page of tasks and workers",
    "runs": "list runs",
    "watch": "follow a run from its first line",
    "result": "show the result of a run: nodes, times, errors, fixes",
    "cancel": "cancel a run",
    "purge": "remove ended runs, and keys that dead workers left",
    "verify": "compare with plain dbt: same commands, two copies of project and warehouse",
    "demo": "simulate three years with the project in ./dbt",
}
"""dbt-relay's own commands, with their help."""

DBT_COMMANDS = {
    "build": "run seeds, models, snapshots and tests, in order",
    "clean": "remove the folders of clean-targets",
    "clone": "clone relations of another state",
    "compile": "write the SQL of nodes without running it",
    "debug": "check project, profile and connection",
    "deps": "install packages",
    "docs generate": "write the documentation",
    "init": "create a project",
    "list": "list nodes (also ls)",
    "parse": "parse the project",
    "retry": "run failed and skipped nodes again, of the previous command or of RUN",
    "run": "run models",
    "run-operation": "run a macro",
    "seed": "load CSV files",
    "show": "print rows of a node or a query",
    "snapshot": "run snapshots",
    "source freshness": "check the age of sources",
    "test": "run tests",
}
"""dbt's commands, with their help. ``docs serve`` is missing: workers do not run it."""

_METAVARS = {
    "text": "TEXT",
    "int": "INTEGER",
    "path": "PATH",
    "yaml": "YAML",
    "datetime": "DATE",
    "bool": "BOOLEAN",
}


def root_help() -> str:
    """Return the text of ``dbt-relay --help``."""
    return "\n".join(
        [
            "Usage: dbt-relay [OPTIONS] COMMAND [ARGS]...",
            "",
            "  Runs dbt commands on warm workers, one task per node. Accepts dbt's arguments, prints dbt's",
            "  lines, and returns dbt's exit code and artifacts: use dbt-relay in place of dbt.",
            "",
            "  Commands go to DBT_RELAY_BROKER_URL or REDIS_URL where one is set, else to the warm stack of",
            "  `dbt-relay up`, else to a private stack that ends with the command.",
            "",
            "  Ctrl-C cancels the run and waits for its end; a second Ctrl-C does not wait. Time limits in",
            "  seconds: DBT_RELAY_NODE_SOFT_TIME_LIMIT and DBT_RELAY_NODE_TIME_LIMIT for each node,",
            "  DBT_RELAY_RUN_DEADLINE for the run, from its submission.",
            "",
            "dbt's commands:",
            *_table(DBT_COMMANDS),
            "",
            "dbt-relay's own commands:",
            *_table(OWN_COMMANDS),
            "",
            "Options:",
            "  -h, --help     print this text; after a command, its options",
            "  -V, --version  print the version",
            "  dbt's global options, such as --debug or --target, can precede its command.",
        ]
    )


def command_help(words: str, table: Table | None = None) -> str:
    """Return the text of ``--help`` of a dbt command, or of a group such as ``docs``.

    Args:
        words: the command.
        table: dbt's options; default the packaged ones.
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
        lines += [f"  dbt's command ({DBT_COMMANDS[words]}), executed by warm workers.", ""]
    if words == "retry":
        lines[0] += " [RUN]"
        lines += [
            "  RUN is a run id of `dbt-relay runs`, the beginning of one, or `latest`. Without it, dbt reads",
            "  the previous results from the target folder.",
            "",
        ]
    lines.append(f"Options (of dbt-core {' and '.join(_series(table))}; dbt's documentation describes them:")
    lines.append("https://docs.getdbt.com/reference/dbt-commands):")
    for option in spec.options:
        if not option.hidden:
            lines.append(f"  {_option_line(option)}")
    return "\n".join(lines)


def version_text(environ: Mapping[str, str]) -> str:
    """Return the text of ``--version``: the releases of dbt-relay and of its workers' dbt."""
    from importlib.metadata import PackageNotFoundError, version

    from producer.worker_tables import installations

    try:
        own = version("dbt-relay")
    except PackageNotFoundError:
        own = "from a source tree"
    known = f"accepts the commands of dbt-core {', '.join(_series(packaged()))}"
    return "\n".join([f"dbt-relay {own}", known, *installations(environ)])


def _series(table: Table) -> list[str]:
    """List the release lines whose options are known: ``1.10``, ``1.11``."""
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
