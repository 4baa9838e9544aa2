"""What to do about errors of the project: its code, its files, its configuration, its selection."""

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
            f"Add version {diagnosis.named('version')} to the versions of {name} in its YAML, or refer to one "
            f"that is there, in {diagnosis.place}."
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
            f"The value that {diagnosis.place} takes '{name}' of is none: look where it is set. If a query or `graph` "
            "gives it, it has no value while dbt parses: put the code inside {% if execute %} … {% endif %}."
        )
    return f"Correct '{name}' in {diagnosis.place}: the {owner.removesuffix(' object')} there has nothing of that name."


def _undefined_variable(diagnosis: Diagnosis) -> str:
    name = diagnosis.named("name")
    given = json.dumps({name: "<value>"})
    return f"Give it a value: `--vars '{given}'`, or a default under vars: in dbt_project.yml."


def _jinja_syntax(diagnosis: Diagnosis) -> str:
    said = diagnosis.parsed.core
    unknown = re.search(r"unknown tag '(\w+)'", said)
    innermost = re.search(r"needs to be closed is '(\w+)'", said)
    unclosed = re.search(r"close tag for (\w+)", said)
    if innermost is not None:
        tag = innermost[1]
        return f"Close the {{% {tag} %}} block with {{% end{tag} %}} in {diagnosis.place}."
    if unknown is not None:
        hint = did_you_mean(unknown[1], _JINJA_TAGS)
        return f"{hint} '{unknown[1]}' is no Jinja tag: correct it in {diagnosis.place}.".strip()
    if unclosed is not None:
        where = diagnosis.file or f"the {unclosed[1]} that lacks it (dbt does not say in which file)"
        return f"Add {{% end{unclosed[1]} %}} at the end of {where}."
    if "end of print statement" in said:
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
        return f"Correct {file}{line}: the same key is there twice."
    return f"Correct {file}{line}: entries of the same level must be indented alike."


def _invalid_config(diagnosis: Diagnosis) -> str:
    path, problem = diagnosis.fact("path").replace("']['", ".").strip("'\""), diagnosis.fact("problem")
    if path:
        return f"Correct {path} in {diagnosis.place}{': ' + problem if problem else ''}."
    return f"Correct the configuration in {diagnosis.place}."


def _dependency_cycle(diagnosis: Diagnosis) -> str:
    names = [part.split(".")[-1] for part in re.split(r"\s*-->\s*", diagnosis.fact("cycle")) if part]
    if not names:
        return "Remove one of the ref() calls that close the circle."
    circle = " → ".join([*names, names[0]])
    return f"Remove one of the ref() calls that close the circle {circle}."


def _missing_package(diagnosis: Diagnosis) -> str:
    versions = diagnosis.fact("versions")
    if versions:
        return f"Ask for a version of {diagnosis.named('name')} that exists, in packages.yml: {versions}."
    return (
        f"Correct {diagnosis.fact('name', 'the package')} in packages.yml (name, version, path or git address), "
        "then run `dbt-relay deps`."
    )


def _no_profile(diagnosis: Diagnosis) -> str:
    name = diagnosis.fact("name")
    if not name:
        return "Add `profile: <name>` to dbt_project.yml, or give --profile."
    return (
        f"Add profile '{name}' to profiles.yml, correct `profile:` in dbt_project.yml, or say where "
        "profiles.yml is with --profiles-dir or DBT_PROFILES_DIR."
    )


def _no_target(diagnosis: Diagnosis) -> str:
    targets = re.findall(r"^\s*-\s*(\S+)", diagnosis.fact("names"), re.MULTILINE)
    likely = nearest(diagnosis.fact("name"), targets) or targets
    given = f"`--target {likely[0]}`" if likely else "a target that is there"
    there = f" (targets: {', '.join(targets)})" if targets else ""
    return f"Use {given}, or add target '{diagnosis.named('name')}' to profile {diagnosis.named('profile')}{there}."


def _unknown_selector(diagnosis: Diagnosis) -> str:
    names = listed(diagnosis.fact("names"))
    hint = did_you_mean(diagnosis.fact("name"), names)
    there = f"Selectors that there are: {', '.join(names)}." if names else "selectors.yml defines none."
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
        return f"Correct {diagnosis.place}; `dbt-relay compile --select {diagnosis.select}` shows the same sooner."
    return f"Correct {diagnosis.place} as the message says; `dbt-relay parse` shows the same sooner."


PROJECT_FIXES: Final[dict[str, Fix]] = {
    "unknown_command": _unknown_command,
    "unknown_option": _unknown_option,
    "invalid_vars": "Give --vars one YAML or JSON dictionary: `--vars '{\"simulation_year\": 2026}'`.",
    "usage_error": lambda f: f"See `dbt-relay {f.failure.command or '<command>'} --help` for what it takes.",
    "missing_ref": _missing_ref,
    "disabled_ref": lambda f: (
        f"Enable {f.named('name')} (config enabled: true), or take the ref out of {f.place}."
    ),
    "private_ref": lambda f: (
        f"Put both nodes into the same group, or set access: protected or public on {f.named('name')}."
    ),
    "missing_source": _missing_source,
    "missing_doc": lambda f: f"Add a {{% docs {f.named('name')} %}} block, or correct doc() in {f.place}.",
    "hidden_dependency": _hidden_dependency,
    "undefined_macro": _undefined_macro,
    "undefined_attribute": _undefined_attribute,
    "undefined_variable": _undefined_variable,
    "macro_arguments": lambda f: f"Call {f.named('name')} with the arguments it takes, in {f.place}.",
    "macro_recursion": lambda f: f"Give the macro that {f.place} calls an end to its recursion.",
    "jinja_syntax": _jinja_syntax,
    "duplicate_name": _duplicate_name,
    "duplicate_relation": "Give one of the two another alias, schema or database: see the detail.",
    "missing_materialization": _missing_materialization,
    "warning_as_error": "Put right what the warning names, or leave --warn-error out.",
    "compilation_error": _general,
    "yaml_syntax": _yaml_syntax,
    "invalid_properties": lambda f: f"Correct {f.file or 'the YAML file'}: {f.fact('reason', 'see the detail')}.",
    "python_syntax": lambda f: f"Correct the Python in {f.place}.",
    "invalid_encoding": (
        "Save the project's files as UTF-8; `grep -rlaxv '.*' models seeds macros` names those that are not "
        "(in a UTF-8 locale)."
    ),
    "parsing_error": _general,
    "dependency_cycle": _dependency_cycle,
    "deps_not_installed": "Run `dbt-relay deps` first.",
    "missing_package": _missing_package,
    "package_unreachable": lambda f: (
        f"Check the network to {f.fact('host') or f.fact('name') or 'the package index'} from the worker; "
        "it may pass: try `dbt-relay deps` again."
    ),
    "invalid_packages": lambda f: f"Correct {f.fact('file', 'packages.yml')} as the detail says.",
    "dependency_error": "Correct packages.yml as the message says, then run `dbt-relay deps`.",
    "unknown_selector": _unknown_selector,
    "invalid_selector": _invalid_selector,
    "missing_state": lambda f: (
        (f"There is no manifest.json in {f.fact('path')}. " if f.fact("path") else "")
        + "Give `--state <folder>` (or DBT_STATE) with the manifest.json of an earlier run, for `result:` its "
        "run_results.json, for `source_status:` its sources.json too."
    ),
    "incompatible_state": lambda f: (
        f"Make the state anew with the dbt of the workers: it has {f.fact('found', 'another schema')}, and this dbt "
        f"reads {f.fact('wanted', 'its own')}."
    ),
    "missing_loaded_at": lambda f: (
        f"Set loaded_at_field or loaded_at_query of {f.named('name')} in the YAML file of its source, or freshness: null."
    ),
    "missing_run_results": lambda f: (
        f"Run a command first: there is no run_results.json in {f.fact('path', 'target')}; or give --state."
    ),
    "invalid_config": _invalid_config,
    "env_var_missing": lambda f: (
        f"Set it where you start the command, `export {f.named('name')}=…`, or give a default: "
        f"env_var('{f.named('name')}', '<default>')."
    ),
    "file_access": lambda f: (
        f"Let the user of the worker write to {f.named('path')}, or choose other folders for what dbt writes: "
        "--target-path and --log-path, or DBT_TARGET_PATH and DBT_LOG_PATH."
    ),
    "env_var_not_sent": lambda f: (
        f.fact("remedy")
        or f"Set DBT_RELAY_ENV_SEND={f.named('name')} where you start the command, or the value on every worker."
    ),
    "secret_env_var": "Use a variable whose name does not begin with DBT_ENV_SECRET_ there.",
    "no_project": (
        "Run it in a folder with a dbt_project.yml, or say where the project is with --project-dir."
    ),
    "no_profile": _no_profile,
    "no_target": _no_target,
    "invalid_profile": lambda f: (
        f"Correct target {f.fact('target', '<target>')} of profile {f.named('profile')} in profiles.yml"
        f"{': ' + f.fact('reason') if f.fact('reason') and f.fact('target') else ''}."
    ),
    "missing_adapter": lambda f: (
        f"Install it where the workers run, `pip install dbt-{f.named('name')}`, or correct type: in profiles.yml."
    ),
    "unsupported_language": lambda f: (
        f"Write {f.place} in {f.fact('languages', 'sql').strip(chr(39))}, or run it on a warehouse that takes "
        f"{f.named('name')} models."
    ),
    "dbt_version_mismatch": lambda f: (
        f"Install a dbt-core that {f.named('name')} supports ({f.named('versions')}), or correct its "
        "require-dbt-version."
    ),
    "dbt_not_found": "Install dbt-core and the adapter in the environment that is used, or put dbt on PATH.",
    "fail_fast": "Put right the node that failed first, then run `dbt-relay retry`.",
}  # fmt: skip
