"""Parsing of dbt's command line, compared with dbt's own parser."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from producer.dbt_cli.arguments import parse_invocation, with_vars
from producer.dbt_cli.invocation import Invocation
from producer.dbt_cli.options import Table, command, command_names, dbt_versions, packaged, subcommands
from producer.dbt_cli.project import check_project, profiles_dir, project_dir, render, target_path
from producer.dbt_cli.vars import dump_vars, load_mapping
from workers.contract.errors import DbtUsageError

ROOT = Path(__file__).resolve().parents[2]
PROFILES = "shop: {target: dev, outputs: {dev: {type: duckdb, path: shop.duckdb}, prod: {type: duckdb}}}\n"
DAY = datetime(2025, 1, 2)
YEAR_1000 = datetime(1000, 1, 1)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that dbt would accept."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "dbt_project.yml").write_text("name: shop\nversion: '1.0'\nprofile: shop\n")
    (folder / "profiles.yml").write_text(PROFILES)
    return folder


def parse(
    *words: str, environ: Mapping[str, str] | None = None, cwd: Path = Path(__file__).parent
) -> Invocation:
    return parse_invocation(words, environ=environ or {}, cwd=cwd)


def refusal(call: Any) -> DbtUsageError:
    with pytest.raises(DbtUsageError) as caught:
        call()
    error = caught.value
    assert error.info is not None
    assert error.info.category == "usage"
    assert error.info.message
    return error


# ---------------------------------------------------------------- what is accepted


@pytest.mark.parametrize(
    ("words", "name", "options"),
    [
        (["run"], "run", {}),
        (["ls"], "list", {}),
        (["docs", "generate", "--static"], "docs generate", {"static": True}),
        (["source", "snapshot-freshness", "-o", "x.json"], "source freshness", {"output": "x.json"}),
        (["run-operation", "grant", "--args", "{role: me}"], "run-operation", {"macro": "grant", "args": {"role": "me"}}),
        (["run", "--select", "a", "b+", "--full-refresh"], "run", {"select": ("a", "b+"), "full_refresh": True}),
        (["run", "-s", "a b", "-s", "c"], "run", {"select": ("a", "b", "c")}),
        (["run", "-sa", "b"], "run", {"select": ("a", "b")}),
        (["run", "--select=a", "b"], "run", {"select": ("a", "b")}),
        (["run", "--models", "a"], "run", {"select": ("a",)}),
        (["ls", "--models", "a"], "list", {"models": ("a",)}),
        (["run", "-xf"], "run", {"fail_fast": True, "full_refresh": True}),
        (["run", "-xfs", "a"], "run", {"fail_fast": True, "full_refresh": True, "select": ("a",)}),
        (["run", "--threads", "3", "--threads", "4"], "run", {"threads": 4}),
        (["run", "--select", "--full-refresh"], "run", {"select": ("--full-refresh",)}),
        (["--debug", "--target", "prod", "run"], "run", {"debug": True, "target": "prod"}),
        (["docs", "--no-debug", "generate"], "docs generate", {"debug": False}),
        (["run", "--vars", "{a: 1, d: 2025-01-02}"], "run", {"vars": {"a": 1, "d": date(2025, 1, 2)}}),
        (["build", "--resource-type", "MODEL", "test"], "build", {"resource_types": ("model", "test")}),
        (["run", "--event-time-start", "2025-01-02"], "run", {"event_time_start": DAY}),
        (["init", "shop", "--skip-profile-setup"], "init", {"project_name": "shop", "skip_profile_setup": True}),
        (["run-operation", "--", "-grant"], "run-operation", {"macro": "-grant"}),
        (["deps", "--add-package", "x@1.0"], "deps", {"add_package": "x@1.0"}),
        (["run", "bogus", "--help"], "run", {"help": True}),
        (["--version"], "", {"version": True}),
        (["--help", "bogus"], "", {"help": True}),
    ],
)  # fmt: skip
def test_command_line_is_parsed(words: list[str], name: str, options: dict[str, Any]) -> None:
    invocation = parse(*words)
    assert invocation.command == name
    assert invocation.options == options
    assert invocation.args == tuple(words)


def test_path_objects_are_accepted(tmp_path: Path) -> None:
    invocation = parse_invocation(["run", "--project-dir", tmp_path], environ={}, cwd=tmp_path)  # type: ignore[list-item]
    assert invocation.args == ("run", "--project-dir", str(tmp_path))


def test_environment_sets_options_that_the_command_line_lacks() -> None:
    environ = {
        "DBT_TARGET": "old",
        "DBT_ENGINE_TARGET": "prod",
        "DBT_FULL_REFRESH": "yes",
        "DBT_FAIL_FAST": "",
        "DBT_DEFER": "off",
        "DBT_RESOURCE_TYPES": "model  seed",
        "DBT_PROFILE": "ignored",
    }
    invocation = parse("build", "--profile", "shop", environ=environ)
    assert invocation.options == {
        "profile": "shop",
        "target": "prod",
        "full_refresh": True,
        "defer": False,
        "resource_types": ("model", "seed"),
    }
    assert invocation.environment == {
        "target": "DBT_ENGINE_TARGET",
        "full_refresh": "DBT_FULL_REFRESH",
        "defer": "DBT_DEFER",
        "resource_types": "DBT_RESOURCE_TYPES",
    }


def test_help_and_version_are_distinguished() -> None:
    assert parse("run", "-h").wants_help
    assert not parse("run", "-h").wants_version
    assert parse("-v").wants_version
    assert not parse("run").wants_help


# ---------------------------------------------------------------- what is refused

BAD_WORDS: list[tuple[list[Any], str, str]] = [
    ([], "missing_command", "Missing command."),
    (["--debug"], "missing_command", "build"),
    (["docs"], "missing_command", "docs generate"),
    (["buld"], "unknown_command", "No such command 'buld'. Did you mean 'build'?"),
    (["frobnicate"], "unknown_command", "One of: build"),
    (["dbt", "run"], "unknown_command", "Leave the word dbt out"),
    (["docs", "generat"], "unknown_command", "Did you mean 'generate'?"),
    (["run", "--selct", "a"], "unknown_option", "No such option '--selct'."),
    (["run", "--select-all"], "unknown_option", "'--select'"),
    (["run", "--store-failures"], "unknown_option", "No such option '--store-failures'"),
    (["run", "-Z"], "unknown_option", "No such option '-Z'."),
    (["run", "-fZ"], "unknown_option", "No such option '-Z'."),
    (["--project-dir", ".", "run"], "unknown_option", "--project-dir"),
    (["run", "--threads"], "missing_value", "Option '--threads' requires an argument."),
    (["run", "-s"], "missing_value", "Option '-s' requires an argument."),
    (["run", "--full-refresh=yes"], "option_without_value", "does not take a value"),
    (["run", "--threads", "many"], "invalid_integer", "'many' is not a valid integer."),
    (["run", "--threads", "1.5"], "invalid_integer", "Invalid value for '--threads'"),
    (["show", "--limit", "all"], "invalid_integer", "--limit"),
    (["run", "--indirect-selection", "eagre"], "invalid_choice", "Did you mean 'eager'?"),
    (["ls", "--output", "yaml"], "invalid_choice", "'json', 'name', 'path', 'selector'"),
    (["build", "--resource-type", "model", "modle"], "invalid_choice", "'modle' is not one of"),
    (["deps", "--source", "HUB"], "invalid_choice", "'hub'"),
    (["run", "--event-time-start", "yesterday"], "invalid_date", "does not match the formats '%Y-%m-%d'"),
    (["run", "--project-dir", "nowhere"], "invalid_path", "Path 'nowhere' does not exist."),
    (["run", "--profiles-dir", "nowhere"], "invalid_path", "--profiles-dir"),
    (["run", "--state", "test_dbt_args.py"], "invalid_path", "Directory 'test_dbt_args.py' is a file."),
    (["source", "freshness", "-o", "."], "invalid_path", "File '.' is a directory."),
    (["run", "my_model"], "extra_argument", "To choose models write --select my_model."),
    (["run", "a", "b"], "extra_argument", "Got unexpected extra arguments (a b)"),
    (["run-operation"], "missing_argument", "Missing argument 'MACRO'."),
    (["run-operation", "a", "b"], "extra_argument", "Got unexpected extra argument (b)"),
    (["--target", "a", "run", "--target", "a"], "option_given_twice", "both before and after the subcommand"),
    (["run", "--deprecated-favor-state", "x"], "deprecated_option", "environment variables"),
    (["run", "--vars", "{a: 1"], "invalid_yaml", "line 1, column 6"),
    (["run", "--vars", "a:1"], "not_a_mapping", "YAML needs a space after the colon"),
    (["run", "--vars", ""], "not_a_mapping", "is nothing"),
    (["run", "--vars", "[1, 2]"], "not_a_mapping", "is a list"),
    (["run", "--vars", "{a: \t@}"], "invalid_yaml", "--vars"),
    (["run", "--vars", "{a: \x07}"], "invalid_yaml", "not valid YAML"),
    (["run", "--vars", "{a: 2025-13-45}"], "invalid_yaml", "month must be in 1..12"),
    (["run", "--vars", "a: !!python/object:os.system x"], "invalid_yaml", "could not determine a constructor"),
    (["run-operation", "m", "--args", "x"], "not_a_mapping", "--args"),
    (["run", "--warn-error-options", "all"], "not_a_mapping", "--warn-error-options"),
    (["run", 3], "argument_not_text", "3 is a int"),
    (["run", "a\0b"], "argument_with_nul", "NUL"),
    (["run", "x" * 2_000_000], "argument_too_long", "2000000 characters"),
    (["run", *["x"] * 5000], "too_many_arguments", "5001 arguments"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "text"), BAD_WORDS, ids=lambda value: str(value)[:40])
def test_invalid_command_line_is_refused(words: list[Any], code: str, text: str) -> None:
    error = refusal(lambda: parse(*words))
    assert error.info is not None
    assert error.info.code == code
    assert text in str(error)
    assert "Traceback" not in str(error)


def test_unreadable_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)  # the tests may run as root
    error = refusal(lambda: parse("run", "--profiles-dir", str(tmp_path)))
    assert f"Path '{tmp_path}' is not readable." in str(error)


@pytest.mark.parametrize("args", ["run --select a", b"run", None, 7])
def test_arguments_that_are_not_a_list_are_refused(args: Any) -> None:
    error = refusal(lambda: parse_invocation(args, environ={}, cwd=Path()))
    assert error.info is not None
    assert error.info.code == "arguments_not_a_list"
    assert '["run", "--select", "my_model"]' in str(error)


@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [
        ("DBT_FULL_REFRESH", "perhaps", "invalid_boolean"),
        ("DBT_DEFER_TO_STATE", "maybe", "invalid_boolean"),
        ("DBT_PRINTER_WIDTH", "wide", "invalid_integer"),
        ("DBT_INDIRECT_SELECTION", "greedy", "invalid_choice"),
        ("DBT_PROJECT_DIR", "nowhere", "invalid_path"),
        ("DBT_WARN_ERROR_OPTIONS", "{", "invalid_yaml"),
    ],
)
def test_invalid_environment_variable_is_refused(variable: str, value: str, code: str) -> None:
    error = refusal(lambda: parse("run", environ={variable: value}))
    assert error.info is not None
    assert error.info.code == code
    if code != "invalid_yaml":
        assert f"(env var: {variable!r})" in str(error)


def test_usage_error_has_dbts_usage_lines() -> None:
    error = refusal(lambda: parse("run-operation"))
    assert error.info is not None
    assert error.info.detail == (
        "Usage: dbt-relay run-operation [OPTIONS] MACRO\nTry 'dbt-relay run-operation --help' for help."
    )


def test_yaml_error_points_at_the_mistake_in_a_long_line() -> None:
    text = "{" + "a: 1, " * 500 + "b: ]}"
    error = refusal(lambda: load_mapping(text, "--vars"))
    lines = str(error).splitlines()
    assert len(lines[1]) < 200
    assert lines[1][lines[2].index("^")] == "]"


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=30))
@example("? [")
@example("=")
@example("{a: 0b}")
@example("{[a]: 1}")
@example("[" * 3000)
@example("{a: [" + "{}, " * 300 + "]}")
@example("!!timestamp x")
@example("{a: !!int x}")
@example("{a: !!bool x}")
@example("\ud800")
def test_any_text_of_vars_is_parsed_as_by_dbt_or_refused(text: str) -> None:
    try:
        values = load_mapping(text, "--vars")
    except DbtUsageError:
        return
    assert values == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["[" * 400_000, "- " * 400_000 + "a", "? " * 400_000, "{a: " * 200_000])
def test_nesting_that_would_crash_the_process_is_refused(text: str) -> None:
    # PyYAML of dbt-core 1.12 has a limit of its own
    assert "nest" in str(refusal(lambda: load_mapping(text, "--vars")))


# ---------------------------------------------------------------- beside dbt itself


def generator() -> ModuleType:
    path = ROOT / "scripts" / "generate_dbt_options.py"
    spec = importlib.util.spec_from_file_location("generate_dbt_options", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.dbt_releases
def test_packaged_table_has_every_option_of_the_installed_dbt() -> None:
    script = generator()
    committed = script.unpack(json.loads((ROOT / "producer" / "dbt_cli" / "options.json").read_text("utf-8")))
    installed = script.describe_dbt()
    lines = {version.rpartition(".")[0] for version in committed["dbt_versions"]}
    if installed["dbt_versions"][0].rpartition(".")[0] not in lines:
        pytest.skip(
            "the file is of earlier releases: the client asks the workers, or the dbt of its environment"
        )
    installed["dbt_versions"] = []
    assert script.merge(committed, installed) == committed
    for path, entry in installed["commands"].items():
        for name, spec in entry["options"].items():
            for key in ("kind", "multi", "path", "case_sensitive"):
                assert committed["commands"][path]["options"][name].get(key) == spec.get(key), (path, name)


def test_generator_packs_reversibly_and_merges_releases() -> None:
    script = generator()
    older = {
        "dbt_versions": ["1.9.0"],
        "aliases": {},
        "commands": {
            "run": {"arguments": [], "options": {"a": {"opts": ["--a"], "kind": "choice", "choices": ["x"]}}},
            "gone": {
                "arguments": [],
                "options": {"a": {"opts": ["--other"], "kind": "text", "hidden": True}},
            },
        },
    }
    newer = {
        "dbt_versions": ["1.10.0"],
        "aliases": {"r": "run"},
        "commands": {
            "run": {
                "arguments": [],
                "options": {
                    "a": {"opts": ["--a"], "kind": "choice", "choices": ["y"]},
                    "b": {"opts": ["-b"]},
                },
            }
        },
    }
    merged = script.merge(newer, older)
    assert merged["dbt_versions"] == ["1.9.0", "1.10.0"]
    assert merged["commands"]["run"]["options"]["a"]["choices"] == ["y", "x"]
    assert "gone" in merged["commands"]
    assert script.unpack(json.loads(script.dump(script.pack(merged)))) == merged


def click_reads(words: list[str]) -> tuple[str, dict[str, Any]] | None:
    """Parse a command line with dbt's click commands; None where they refuse it."""
    import click
    from click.core import ParameterSource
    from dbt.cli.main import cli

    context = None
    group: click.Command = cli
    name, rest, seen = "dbt", list(words), {}
    try:
        while True:
            context = group.make_context(name, rest, parent=context)
            for param, source in context._parameter_source.items():
                if source is ParameterSource.COMMANDLINE:
                    if param in seen:  # dbt.cli.flags.Flags refuses it later
                        return None
                    seen[param] = context.params[param]
            seen |= {
                one.name: context.params[one.name] for one in group.params if isinstance(one, click.Argument)
            }
            if not isinstance(group, click.Group):
                break
            rest = [*context._protected_args, *context.args]
            if not rest:
                return None
            found, resolved, rest = group.resolve_command(context, rest)
            assert resolved is not None
            name, group = str(found), resolved
    except (click.UsageError, click.exceptions.NoArgsIsHelpError):
        return None
    path = context.command_path.removeprefix("dbt ")
    return {"ls": "list", "source snapshot-freshness": "source freshness"}.get(path, path), seen


WORDS = st.sampled_from(
    ["run", "build", "ls", "docs", "generate", "source", "freshness", "run-operation", "test", "seed", "list",
     "a", "b c", "", "-", "--", "model", "3", "x", "--select", "-s", "--select=a b", "-sx", "-m", "--exclude",
     "--full-refresh", "-f", "-x", "-xf", "-fs", "-xft", "--fail-fast", "--no-fail-fast", "--no-defer", "--threads",
     "--threads=2", "-t", "--target", "--vars", "{a: 1}", "--vars={b: [2]}", "--resource-type", "--args",
     "--output", "json", "-o", "--indirect-selection", "cautious", "--indirect-selection=EMPTY", "--debug", "-d",
     "--no-debug", "-q", "--quiet=1", "--bogus", "--event-time-end", "2025-01-01", "-dx", "--printer-width", "--static",
     "--no-compile", "--output-keys", "--empty", "-", "--selector", "--inline", "select 1", "-fz", "-s=a"]
)  # fmt: skip

SOUND = st.sampled_from(
    [["--select", "a", "b"], ["-s", "a b"], ["-sx"], ["--select=a", "c"], ["--exclude", "", "x"], ["--full-refresh"],
     ["-f"], ["-x"], ["-fx"], ["--no-fail-fast"], ["--threads", "3"], ["--threads=2"], ["-t", "dev"], ["-tdev"],
     ["--vars", "{a: 1}"], ["--vars={b: [2]}"], ["--target-path", "-"], ["-q"], ["-d"], ["--no-debug"], ["--selector", "s"],
     ["--selector=a=b"], ["--select", "--full-refresh"], ["-fs", "m"], ["--printer-width", " 80 "], ["--no-defer"]]
)  # fmt: skip
REST = st.lists(SOUND, max_size=5) | st.lists(SOUND | WORDS.map(lambda word: [word]), max_size=5)
PREFIX = st.sampled_from([[], [], ["--no-defer"], ["--target", "x"], ["-dq"], ["-x"], ["--bogus"], ["a"]])
VERB = st.sampled_from(
    [
        ["run"],
        ["build"],
        ["ls"],
        ["test"],
        ["docs", "generate"],
        ["source", "freshness"],
        ["run-operation", "m"],
        ["x"],
        [],
    ]
)


@functools.cache
def table_of_the_installed_dbt() -> Table:
    """The packaged table where it covers the release, else the table that its workers would publish."""
    script = generator()
    published = Table(script.pack(script.describe_dbt()))
    return packaged() if packaged().covers(published.dbt_versions()[0]) else published


@pytest.mark.dbt_releases
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefix=PREFIX, verb=VERB, rest=REST)
@example(prefix=[], verb=["source", "freshness"], rest=[["--output", ""]])
@example(prefix=[], verb=["run"], rest=[["--project-dir", ""]])
def test_command_lines_are_accepted_and_refused_as_by_dbt(
    project: Path, monkeypatch: pytest.MonkeyPatch, prefix: list[str], verb: list[str], rest: list[list[str]]
) -> None:
    monkeypatch.chdir(project)  # dbt's defaults of --project-dir and --profiles-dir look there
    for name in [name for name in os.environ if name.startswith("DBT_")]:
        monkeypatch.delenv(name)
    words = [*prefix, *verb, *(word for words in rest for word in words)]
    expected = click_reads(list(words))
    try:
        invocation = parse_invocation(words, environ={}, cwd=project, table=table_of_the_installed_dbt())
    except DbtUsageError:
        assert expected is None
        return
    assert expected is not None
    assert invocation.command == expected[0]
    ours = {name: str(value) if "path" in name else value for name, value in invocation.options.items()}
    theirs = {name: value for name, value in expected[1].items() if value is not None}
    assert ours == theirs


# ---------------------------------------------------------------- vars


def vars_of(words: list[str]) -> Any:
    """Parse vars with dbt's own function."""
    return yaml.safe_load(words[words.index("--vars") + 1])


def test_year_and_vars_become_one_json_argument() -> None:
    words = with_vars(
        ["run", "--select", "int_*"], 2026, {"cola_rate": 0.01, "nested": {"a": [1, None, True]}}
    )
    assert words[:4] == ["run", "--select", "int_*", "--vars"]
    assert json.loads(words[4]) == {
        "simulation_year": 2026,
        "cola_rate": 0.01,
        "nested": {"a": [1, None, True]},
    }
    assert len(words) == 5


def test_without_vars_the_arguments_stay_unchanged() -> None:
    words = ["run", "--vars", "{a:   1}"]
    assert with_vars(words, None, None) == words
    assert with_vars(words, None, {}) == words


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--vars", "{b: 2}", "--full-refresh"],
        ["run", "--vars={b: 2}", "--full-refresh"],
        ["run", "--vars", "{b: 1}", "--vars", "{b: 2}", "--full-refresh"],
    ],
)
def test_vars_are_merged_at_the_position_of_the_option(words: list[str]) -> None:
    joined = with_vars(words, 2026, {"a": 1})
    assert parse(*joined).options == {
        "vars": {"simulation_year": 2026, "a": 1, "b": 2},
        "full_refresh": True,
    }
    assert joined[-1] == "--full-refresh"


def test_vars_are_added_before_a_double_dash() -> None:
    words = with_vars(["run-operation", "--", "-macro"], 2026)
    assert parse(*words).options == {"macro": "-macro", "vars": {"simulation_year": 2026}}


def test_value_spelled_like_vars_is_not_the_option() -> None:
    words = with_vars(["run", "--select", "--vars", "--target", "--"], 2026)
    assert words == ["run", "--select", "--vars", "--target", "--", "--vars", '{"simulation_year": 2026}']


def test_same_var_value_in_two_sources_is_accepted() -> None:
    words = with_vars(
        ["run", "--vars", "{simulation_year: 2026}"], 2026, {"simulation_year": 2026, "xs": (1, 2)}
    )
    assert vars_of(words) == {"simulation_year": 2026, "xs": [1, 2]}


@pytest.mark.parametrize(
    ("words", "year", "dbt_vars", "texts"),
    [
        (["run", "--vars", "{simulation_year: 2025}"], 2026, None,
         ["simulation_year", "2026 in the argument simulation_year", "2025 in --vars"]),
        (["run"], 2026, {"simulation_year": 2025}, ["2026 in the argument simulation_year", "2025 in dbt_vars"]),
        (["run", "--vars", "{a: 1}"], None, {"a": "1"}, ["'a' is '1' in dbt_vars and 1 in --vars"]),
        (["run", "--vars", "{a: true}"], None, {"a": 1}, ["'a' is 1 in dbt_vars and True in --vars"]),
    ],
)  # fmt: skip
def test_different_var_values_in_two_sources_are_refused(
    words: list[str], year: int | None, dbt_vars: dict[str, Any] | None, texts: list[str]
) -> None:
    error = refusal(lambda: with_vars(words, year, dbt_vars))
    assert error.info is not None
    assert error.info.code == "contradicting_vars"
    for text in texts:
        assert text in str(error)


@pytest.mark.parametrize(
    ("words", "year", "dbt_vars", "code"),
    [
        (["run"], "2026", None, "invalid_simulation_year"),
        (["run"], True, None, "invalid_simulation_year"),
        (["run"], 2026.0, None, "invalid_simulation_year"),
        (["run"], None, [("a", 1)], "invalid_dbt_vars"),
        (["run"], None, "a: 1", "invalid_dbt_vars"),
        (["run"], None, {1: "a"}, "invalid_dbt_vars"),
        (["run"], None, {"a": object()}, "invalid_dbt_vars"),
        (["run"], None, {"a": Path("x")}, "invalid_dbt_vars"),
        (["run", "--vars", "["], 2026, None, "invalid_yaml"),
        (["run", "--select"], 2026, None, "missing_value"),
        (["rnu"], 2026, None, "unknown_command"),
    ],
)
def test_malformed_vars_are_refused(words: list[str], year: Any, dbt_vars: Any, code: str) -> None:
    error = refusal(lambda: with_vars(words, year, dbt_vars))
    assert error.info is not None
    assert error.info.code == code


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
    | st.dates() | st.datetimes(min_value=YEAR_1000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=9), VALUES, max_size=4))
@example(
    {"a": 1e-05, "b": 1e22, "c": math.inf, "d": "1e-05", "e": "\x85", "f": "😀", "g": "2025-01-01", "h": "no"}
)
@example({"a": "two\nlines", "b": "\x7f\u2028"})
def test_dumped_vars_are_parsed_back_by_dbt(values: dict[str, Any]) -> None:
    assert yaml.safe_load(dump_vars(values)) == values


def test_nan_is_parsed_back() -> None:
    assert math.isnan(yaml.safe_load(dump_vars({"a": math.nan}))["a"])


# ---------------------------------------------------------------- folders


def test_project_is_the_nearest_folder_with_a_project_file(project: Path) -> None:
    below = project / "models" / "staging"
    below.mkdir(parents=True)
    assert project_dir(parse("run"), below, {}) == project
    assert project_dir(parse("run"), project.parent, {}) == project.parent
    given = parse("run", "--project-dir", "shop/../shop", cwd=project.parent)
    assert project_dir(given, project.parent, {}) == project
    by_environment = parse("run", environ={"DBT_PROJECT_DIR": str(project)})
    assert project_dir(by_environment, Path("/"), {}) == project


def test_profiles_folder_is_found_as_by_dbt(project: Path, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path / "home")}
    assert profiles_dir(parse("run"), project, home) == project
    assert profiles_dir(parse("run"), tmp_path, home) == tmp_path / "home" / ".dbt"
    assert profiles_dir(parse("run", "--profiles-dir", "shop", cwd=tmp_path), tmp_path, home) == project
    assert profiles_dir(parse("run"), tmp_path, {}) == Path.home() / ".dbt"


def test_target_folder_is_found_as_by_dbt(project: Path, tmp_path: Path) -> None:
    assert target_path(parse("run"), project, {}) == project / "target"
    assert target_path(parse("run", "--target-path", "out"), project, {}) == project / "out"
    assert target_path(parse("run", "--target-path", str(tmp_path)), project, {}) == tmp_path
    assert target_path(parse("run", environ={"DBT_TARGET_PATH": "env"}), project, {}) == project / "env"
    (project / "dbt_project.yml").write_text("name: shop\ntarget-path: \"{{ env_var('OUT', 'made') }}\"\n")
    assert target_path(parse("run"), project, {}) == project / "made"
    assert target_path(parse("run"), project, {"OUT": "there"}) == project / "there"
    assert target_path(parse("run"), tmp_path / "nowhere", {}) == tmp_path / "nowhere" / "target"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("{{ env_var('A') }}", "1"),
        ('{{env_var("A", "2")}}', "1"),
        ("{{ env_var('B', '2') }}", "2"),
        ("{{ env_var('B') }}", None),
        ("{{ var('A') }}", None),
        ("x_{{ env_var('A') }}", None),
        ("{% if a %}b{% endif %}", None),
    ],
)
def test_single_env_var_is_rendered_and_other_jinja_is_not(text: str, expected: str | None) -> None:
    assert render(text, {"A": "1"}) == expected


# ---------------------------------------------------------------- project and profile


def check(project: Path, *words: str, environ: Mapping[str, str] | None = None) -> Any:
    environ = {"HOME": str(project / "home"), **(environ or {})}
    return check_project(parse_invocation(words, environ=environ, cwd=project), cwd=project, environ=environ)


def test_valid_project_is_found(project: Path) -> None:
    found = check(project, "run")
    assert (found.directory, found.profile, found.target) == (project, "shop", "dev")
    assert found.config["name"] == "shop"
    assert check(project, "run", "--target", "prod").target == "prod"
    assert check(project, "run", environ={"DBT_TARGET": "prod"}).target == "prod"


@pytest.mark.parametrize("words", [["deps"], ["clean"], ["debug"], ["init", "x", "--skip-profile-setup"]])
def test_commands_without_a_profile_are_accepted(project: Path, words: list[str]) -> None:
    (project / "profiles.yml").unlink()
    assert check(project, *words).profile is None


def test_debug_is_not_checked(tmp_path: Path) -> None:
    assert check(tmp_path, "debug").directory == tmp_path


@pytest.mark.parametrize(
    ("project_file", "profiles_file"),
    [
        ("name: shop\nprofile: \"{{ var('p') }}\"\n", PROFILES),
        ("name: shop\nprofile: shop\n", PROFILES.replace("dev,", "\"{{ env_var('UNSET') }}\",")),
        ("name: shop\nprofile: \"{{ env_var('UNSET', 'shop') }}\"\n", PROFILES),
        ("name: shop\nprofile: shop\n", PROFILES.replace("dev,", "\"{{ env_var('UNSET', 'prod') }}\",")),
        ("name: shop\nprofile: shop\n", PROFILES.replace("target: dev, ", "").replace("prod", "default")),
    ],
)
def test_profile_and_target_with_jinja_are_not_checked(
    project: Path, project_file: str, profiles_file: str
) -> None:
    (project / "dbt_project.yml").write_text(project_file)
    (project / "profiles.yml").write_text(profiles_file)
    assert check(project, "run").directory == project


BAD_PROJECTS: list[tuple[str | None, str | None, list[str], str, str]] = [
    (None, PROFILES, ["run"], "no_project", "No dbt_project.yml found at expected path"),
    ("", PROFILES, ["run"], "invalid_project_file", "it is empty"),
    ("- a\n", PROFILES, ["run"], "invalid_project_file", "does not hold a mapping"),
    ("name: [shop\n", PROFILES, ["run"], "invalid_project_file", "line 1, column 12"),
    ("name: shop\n", PROFILES, ["run"], "no_profile_named", "Add a line such as `profile: my_profile`"),
    ("name: shop\nprofile: shp\n", PROFILES, ["run"], "no_such_profile", "Did you mean 'shop'?"),
    ("profile: shop\n", PROFILES, ["run", "--profile", "other"], "no_such_profile", "It has: shop."),
    ("profile: shop\n", None, ["run"], "no_profiles_file", "there is no"),
    ("profile: shop\n", "", ["run"], "invalid_profiles_file", "it is empty"),
    ("profile: shop\n", "shop: {outputs: [", ["run"], "invalid_profiles_file", "not valid YAML"),
    ("profile: shop\n", "shop: {target: dev}", ["run"], "invalid_profiles_file", "outputs not specified"),
    ("profile: shop\n", "shop: 3", ["run"], "invalid_profiles_file", "outputs not specified"),
    ("profile: shop\n", PROFILES, ["run", "-t", "pord"], "no_such_target", "Did you mean 'prod'?"),
    ("profile: shop\n", PROFILES.replace("target: dev, ", ""), ["run"], "no_such_target", "named 'default'"),
    ("profile: shop\n", PROFILES, ["docs", "serve"], "needs_terminal", "docs generate --static"),
    ("profile: shop\n", PROFILES, ["init"], "needs_terminal", "has no terminal"),
]


@pytest.mark.parametrize(("project_file", "profiles_file", "words", "code", "text"), BAD_PROJECTS)
def test_invalid_projects_are_refused(
    project: Path, project_file: str | None, profiles_file: str | None, words: list[str], code: str, text: str
) -> None:
    for name, content in (("dbt_project.yml", project_file), ("profiles.yml", profiles_file)):
        if content is None:
            (project / name).unlink()
        else:
            (project / name).write_text(content)
    error = refusal(lambda: check(project, *words))
    assert error.info is not None
    assert error.info.code == code
    assert text in str(error)


def test_project_in_a_subfolder_is_suggested(project: Path) -> None:
    error = refusal(lambda: check(project.parent, "run"))
    assert "There is one in ./shop: add --project-dir shop" in str(error)


def test_binary_project_file_is_refused(project: Path) -> None:
    (project / "dbt_project.yml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in str(refusal(lambda: check(project, "run")))


def test_every_command_has_a_usage_line() -> None:
    assert {"build", "docs generate", "source freshness", "run-operation", "retry"} <= set(command_names())
    assert "docs" not in command_names()
    assert subcommands("source") == {
        "freshness": "source freshness",
        "snapshot-freshness": "source freshness",
    }
    assert command("run-operation").arguments == (("macro", True),)
    assert any(one.startswith("1.10.") for one in dbt_versions())
    assert any(one.startswith("1.11.") for one in dbt_versions())
