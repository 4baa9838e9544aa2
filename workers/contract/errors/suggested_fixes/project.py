"""Suggested fixes for errors of the dbt project: code, files, configuration, selection and command line."""

from __future__ import annotations

import json
import re
from typing import Final

from workers.contract.errors.diagnosis import Diagnosis, Fix
from workers.contract.errors.suggested_fixes.similar_names import did_you_mean, listed, nearest

_JINJA_NAMES: Final = (
    "adapter", "api", "as_number", "config", "dbt", "dbt_version", "doc", "env_var", "exceptions", "execute",
    "flags", "fromjson", "fromyaml", "graph", "invocation_id", "is_incremental", "load_result", "local_md5",
    "log", "modules", "print", "ref", "return", "run_query", "run_started_at", "schema", "set", "source",
    "statement", "target", "this", "tojson", "toyaml", "var", "zip",
)  # fmt: skip
_JINJA_TAGS: Final = (
    "call", "do", "docs", "elif", "else", "endcall", "endfor", "endif", "endmacro", "endmaterialization", "endraw",
    "endset", "endsnapshot", "endtest", "for", "if", "macro", "materialization", "raw", "set", "snapshot", "test",
)  # fmt: skip
_GENERIC_TESTS: Final = ("accepted_values", "not_null", "relationships", "unique")
_MATERIALIZATIONS: Final = (
    "ephemeral", "external", "incremental", "materialized_view", "seed", "snapshot", "table", "view",
)  # fmt: skip
_METHODS: Final = (
    "access", "config", "exposure", "file", "fqn", "group", "metric", "package", "path", "resource_type", "result",
    "saved_query", "semantic_model", "source", "source_status", "state", "tag", "test_name", "test_type",
    "unit_test", "version",
)  # fmt: skip


def _missing_ref(diagnosis: Diagnosis) -> str:
    name = diagnosis.named("name")
    if diagnosis.fact("version"):
        return (
            f"Add version {diagnosis.named('version')} to the versions of {name} in its YAML, or refer to an existing "
            f"version in {diagnosis.place}."
        )
    if diagnosis.fact("what", "node") != "node":
        return f"Correct the reference to {diagnosis.named('what')} '{name}' in {diagnosis.place}."
    hint = did_you_mean(name, diagnosis.known())
    return f"{hint} Correct the ref in {diagnosis.place}, or add the model or seed '{name}'.".strip()


def _missing_source(diagnosis: Diagnosis) -> str:
    name = diagnosis.named("name")
    hint = did_you_mean(name, diagnosis.known())
    source, _, table = name.partition(".")
    return (
        f"{hint} Correct source('{source}', '{table}') in {diagnosis.place}, or declare table {table} "
        f"under source {source} in a YAML file of the models."
    ).strip()


def _undefined_macro(diagnosis: Diagnosis) -> str:
    name = diagnosis.named("name")
    if name.startswith("test_"):
        hint = did_you_mean(name.removeprefix("test_"), _GENERIC_TESTS)
        test = name.removeprefix("test_")
        return (
            f"{hint} There is no generic test '{test}': correct it in {diagnosis.place}, or install the package "
            f"that has it with `dbt-relay deps`."
        ).strip()
    if re.search(rf"\b{re.escape(name)}\.\w", diagnosis.failure.raw_code or "") and name not in _JINJA_NAMES:
        return (
            f"'{name}' looks like a package: list it in packages.yml and run `dbt-relay deps`, "
            f"or correct the name in {diagnosis.place}."
        )
    hint = did_you_mean(name, _JINJA_NAMES)
    return (
        f"{hint} Correct the name in {diagnosis.place}, or define macro {name} in macros/; "
        "if it comes from a package, run `dbt-relay deps`."
    ).strip()


def _undefined_attribute(diagnosis: Diagnosis) -> str:
    owner, name = diagnosis.fact("owner"), diagnosis.named("name")
    if owner == "None":
        return (
            f"{diagnosis.place} reads '{name}' of a value that is None: check where that value is set. Results of queries "
            "and `graph` are None while dbt parses: put the code inside {% if execute %} … {% endif %}."
        )
    return f"Correct '{name}' in {diagnosis.place}: the {owner.removesuffix(' object')} there has no such attribute."


def _undefined_variable(diagnosis: Diagnosis) -> str:
    name = diagnosis.named("name")
    given = json.dumps({name: "<value>"})
    return f"Give it a value: `--vars '{given}'`, or a default under vars: in dbt_project.yml."


def _jinja_syntax(diagnosis: Diagnosis) -> str:
    text = diagnosis.parsed.core
    unknown = re.search(r"unknown tag '(\w+)'", text)
    innermost = re.search(r"needs to be closed is '(\w+)'", text)
    unclosed = re.search(r"close tag for (\w+)", text)
    if innermost is not None:
        tag = innermost[1]
        return f"Close the {{% {tag} %}} block with {{% end{tag} %}} in {diagnosis.place}."
    if unknown is not None:
        hint = did_you_mean(unknown[1], _JINJA_TAGS)
        return f"{hint} '{unknown[1]}' is not a Jinja tag: correct it in {diagnosis.place}.".strip()
    if unclosed is not None:
        where = diagnosis.file or f"the {unclosed[1]} that lacks it (dbt's error does not name the file)"
        return f"Add {{% end{unclosed[1]} %}} at the end of {where}."
    if "end of print statement" in text:
        return f"Close the {{{{ … }}}} that is open in {diagnosis.place}: a '}}}}' or a comma is missing before it."
    return f"Correct the Jinja in {diagnosis.place}."


def _duplicate_name(diagnosis: Diagnosis) -> str:
    paths = re.findall(
        r"\(([^()\s]+)\)|^[ \t]*(?:- )?(\S+\.(?:sql|ya?ml|csv|py))$",
        diagnosis.parsed.core,
        re.MULTILINE,
    )
    files = sorted({one or other for one, other in paths if other or "/" in one})
    if len(files) > 1:
        return f"Rename or remove one of the two: {' or '.join(files)}."
    return f"Rename or remove one of the two in {files[0]}." if files else "Rename or remove one of the two."


def _yaml_syntax(diagnosis: Diagnosis) -> str:
    file = diagnosis.file or "the YAML file that dbt names"
    line = f" near line {diagnosis.line}" if diagnosis.line is not None else ""
    if "cannot start any token" in diagnosis.parsed.core:
        return f"Correct {file}{line}: YAML allows no tabs; indent with spaces."
    if "quoted scalar" in diagnosis.parsed.core:
        return f"Correct {file}{line}: a quotation mark is not closed."
    if "duplicate" in diagnosis.parsed.core.lower():
        return f"Correct {file}{line}: the same key occurs twice."
    return f"Correct {file}{line}: entries of the same level need the same indentation."


def _invalid_config(diagnosis: Diagnosis) -> str:
    path, problem = diagnosis.fact("path").replace("']['", ".").strip("'\""), diagnosis.fact("problem")
    if path:
        return f"Correct {path} in {diagnosis.place}{': ' + problem if problem else ''}."
    return f"Correct the configuration in {diagnosis.place}."


def _dependency_cycle(diagnosis: Diagnosis) -> str:
    names = [part.split(".")[-1] for part in re.split(r"\s*-->\s*", diagnosis.fact("cycle")) if part]
    if not names:
        return "Remove one of the ref() calls of the cycle."
    cycle = " → ".join([*names, names[0]])
    return f"Remove one of the ref() calls of the cycle {cycle}."


def _missing_package(diagnosis: Diagnosis) -> str:
    versions = diagnosis.fact("versions")
    if versions:
        return f"Require an existing version of {diagnosis.named('name')} in packages.yml: {versions}."
    return (
        f"Correct {diagnosis.fact('name', 'the package')} in packages.yml (name, version, path or git address), "
        "then run `dbt-relay deps`."
    )


def _no_profile(diagnosis: Diagnosis) -> str:
    name = diagnosis.fact("name")
    if not name:
        return "Add `profile: <name>` to dbt_project.yml, or pass --profile."
    return (
        f"Add profile '{name}' to profiles.yml, correct `profile:` in dbt_project.yml, or give the folder of "
        "profiles.yml with --profiles-dir or DBT_PROFILES_DIR."
    )


def _no_target(diagnosis: Diagnosis) -> str:
    targets = re.findall(r"^\s*-\s*(\S+)", diagnosis.fact("names"), re.MULTILINE)
    likely = nearest(diagnosis.fact("name"), targets) or targets
    given = f"`--target {likely[0]}`" if likely else "an existing target"
    there = f" (targets: {', '.join(targets)})" if targets else ""
    return f"Use {given}, or add target '{diagnosis.named('name')}' to profile {diagnosis.named('profile')}{there}."


def _unknown_selector(diagnosis: Diagnosis) -> str:
    names = listed(diagnosis.fact("names"))
    hint = did_you_mean(diagnosis.fact("name"), names)
    there = f"Selectors: {', '.join(names)}." if names else "selectors.yml defines no selector."
    return f"{hint} {there}".strip()


def _invalid_selector(diagnosis: Diagnosis) -> str:
    method = diagnosis.fact("method")
    if method:
        return f"{did_you_mean(method, _METHODS)} Methods are: {', '.join(_METHODS)}.".strip()
    if diagnosis.fact("name"):
        return f"Correct {diagnosis.named('name')} in --select, --exclude or selectors.yml."
    return "Correct selectors.yml."


def _unknown_option(diagnosis: Diagnosis) -> str:
    near = [name.strip("'") for name in listed(diagnosis.fact("names"))]
    likely = nearest(diagnosis.fact("name"), near)
    return (
        f"Did you mean {likely[0]}?"
        if likely
        else f"See `dbt-relay {diagnosis.failure.command or '<command>'} --help`."
    )


def _unknown_command(diagnosis: Diagnosis) -> str:
    near = [name.strip("'") for name in listed(diagnosis.fact("names"))]
    return f"Did you mean {near[0]}?" if near else "See `dbt-relay --help` for the commands there are."


def _hidden_dependency(diagnosis: Diagnosis) -> str:
    return f"Add `-- depends_on: {diagnosis.named('hint')}` at the top of {diagnosis.place}."


def _missing_materialization(diagnosis: Diagnosis) -> str:
    name = diagnosis.named("name")
    hint = did_you_mean(name, _MATERIALIZATIONS)
    return f"{hint} Correct materialized='{name}' in {diagnosis.place} or in dbt_project.yml.".strip()


def _general(diagnosis: Diagnosis) -> str:
    if diagnosis.node or diagnosis.parsed.name:
        return f"Correct {diagnosis.place}; `dbt-relay compile --select {diagnosis.select}` shows the error sooner."
    return f"Correct {diagnosis.place} as the message says; `dbt-relay parse` shows the error sooner."


PROJECT_FIXES: Final[dict[str, Fix]] = {
    "unknown_command": _unknown_command,
    "unknown_option": _unknown_option,
    "invalid_vars": "Pass one YAML or JSON dictionary: `--vars '{\"simulation_year\": 2026}'`.",
    "usage_error": lambda d: f"See `dbt-relay {d.failure.command or '<command>'} --help` for its options.",
    "missing_ref": _missing_ref,
    "disabled_ref": lambda d: (
        f"Enable {d.named('name')} (config enabled: true), or take the ref out of {d.place}."
    ),
    "private_ref": lambda d: (
        f"Put both nodes into the same group, or set access: protected or public on {d.named('name')}."
    ),
    "missing_source": _missing_source,
    "missing_doc": lambda d: f"Add a {{% docs {d.named('name')} %}} block, or correct doc() in {d.place}.",
    "hidden_dependency": _hidden_dependency,
    "undefined_macro": _undefined_macro,
    "undefined_attribute": _undefined_attribute,
    "undefined_variable": _undefined_variable,
    "macro_arguments": lambda d: f"Call {d.named('name')} with its declared arguments in {d.place}.",
    "macro_recursion": lambda d: f"End the recursion of the macro that {d.place} calls.",
    "jinja_syntax": _jinja_syntax,
    "duplicate_name": _duplicate_name,
    "duplicate_relation": "Give one of the two another alias, schema or database: see the detail.",
    "missing_materialization": _missing_materialization,
    "warning_as_error": "Fix what the warning names, or omit --warn-error.",
    "compilation_error": _general,
    "yaml_syntax": _yaml_syntax,
    "invalid_properties": lambda d: f"Correct {d.file or 'the YAML file'}: {d.fact('reason', 'see the detail')}.",
    "python_syntax": lambda d: f"Correct the Python in {d.place}.",
    "invalid_encoding": (
        "Save the project's files as UTF-8; `grep -rlaxv '.*' models seeds macros` (in a UTF-8 locale) lists the "
        "files that are not."
    ),
    "parsing_error": _general,
    "dependency_cycle": _dependency_cycle,
    "deps_not_installed": "Run `dbt-relay deps` first.",
    "missing_package": _missing_package,
    "package_unreachable": lambda d: (
        f"Check the network to {d.fact('host') or d.fact('name') or 'the package index'} from the worker; "
        "if the failure was temporary, run `dbt-relay deps` again."
    ),
    "invalid_packages": lambda d: f"Correct {d.fact('file', 'packages.yml')} as the detail says.",
    "dependency_error": "Correct packages.yml as the message says, then run `dbt-relay deps`.",
    "unknown_selector": _unknown_selector,
    "invalid_selector": _invalid_selector,
    "missing_state": lambda d: (
        (f"There is no manifest.json in {d.fact('path')}. " if d.fact("path") else "")
        + "Pass `--state <folder>` (or DBT_STATE) with the manifest.json of an earlier run; `result:` also needs its "
        "run_results.json, `source_status:` its sources.json."
    ),
    "incompatible_state": lambda d: (
        f"Create the state again with the dbt release of the workers: it has {d.fact('found', 'another schema')}, and "
        f"this dbt reads {d.fact('wanted', 'its own')}."
    ),
    "missing_loaded_at": lambda d: (
        f"Set loaded_at_field or loaded_at_query of {d.named('name')} in the YAML file of its source, or freshness: null."
    ),
    "missing_run_results": lambda d: (
        f"Run a command first: there is no run_results.json in {d.fact('path', 'target')}; or pass --state."
    ),
    "invalid_config": _invalid_config,
    "env_var_missing": lambda d: (
        f"Set it where you start the command, `export {d.named('name')}=…`, or add a default: "
        f"env_var('{d.named('name')}', '<default>')."
    ),
    "file_access": lambda d: (
        f"Allow the user of the worker to write {d.named('path')}, or choose other folders for dbt's files: "
        "--target-path and --log-path, or DBT_TARGET_PATH and DBT_LOG_PATH."
    ),
    "env_var_not_sent": lambda d: (
        d.fact("remedy")
        or f"Set DBT_RELAY_ENV_SEND={d.named('name')} where you start the command, or the value on every worker."
    ),
    "secret_env_var": "Use a variable whose name does not begin with DBT_ENV_SECRET_ there.",
    "no_project": (
        "Run it in a folder with a dbt_project.yml, or give the project's folder with --project-dir."
    ),
    "no_profile": _no_profile,
    "no_target": _no_target,
    "invalid_profile": lambda d: (
        f"Correct target {d.fact('target', '<target>')} of profile {d.named('profile')} in profiles.yml"
        f"{': ' + d.fact('reason') if d.fact('reason') and d.fact('target') else ''}."
    ),
    "missing_adapter": lambda d: (
        f"Install it where the workers run, `pip install dbt-{d.named('name')}`, or correct type: in profiles.yml."
    ),
    "unsupported_language": lambda d: (
        f"Write {d.place} in {d.fact('languages', 'sql').strip(chr(39))}, or use a warehouse that runs "
        f"{d.named('name')} models."
    ),
    "dbt_version_mismatch": lambda d: (
        f"Install a dbt-core that {d.named('name')} supports ({d.named('versions')}), or correct its "
        "require-dbt-version."
    ),
    "dbt_not_found": "Install dbt-core and the adapter in the environment of the command, or add dbt to PATH.",

}  # fmt: skip
