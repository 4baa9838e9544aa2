"""Error codes of dbt's exception classes and error texts.

Sources: dbt-core 1.11 `dbt/exceptions.py`, `dbt/config/`, `dbt/graph/`, `dbt/parser/`; dbt-common
`exceptions/`; dbt-adapters `exceptions/`; and the errors of the broken projects under ``tests/projects``.
"""

from __future__ import annotations

from typing import Final

from workers.contract.errors.rules import make_rules

DBT_EXCEPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "RequiredVarNotFoundError": ("undefined_variable",),
    "EnvVarMissingError": ("env_var_missing",),
    "EnvironmentNotSentError": ("env_var_not_sent",),
    "SecretEnvVarLocationError": ("secret_env_var",),
    "TargetNotFoundError": ("missing_source", "disabled_ref", "missing_ref"),
    "DbtReferenceError": ("private_ref",),
    "DocTargetNotFoundError": ("missing_doc",),
    "RefBadContextError": ("hidden_dependency",),
    "UndefinedMacroError": ("undefined_attribute", "undefined_macro", "compilation_error"),
    "MacroNotFoundError": ("undefined_macro",),
    "PackageNotFoundForMacroError": ("undefined_macro",),
    "TemplateSyntaxError": ("jinja_syntax",),
    "MissingCloseTagError": ("jinja_syntax",),
    "MissingControlFlowStartTagError": ("jinja_syntax",),
    "UnexpectedControlFlowEndTagError": ("jinja_syntax",),
    "UnexpectedMacroEOFError": ("jinja_syntax",),
    "NestedTagsError": ("jinja_syntax",),
    "BlockDefinitionNotAtTopError": ("jinja_syntax",),
    "RecursionError": ("macro_recursion",),
    "DuplicateResourceNameError": ("duplicate_name",),
    "DuplicateMacroInPackageError": ("duplicate_name",),
    "DuplicateMacroNameError": ("duplicate_name",),
    "DuplicatePatchPathError": ("duplicate_name",),
    "AmbiguousAliasError": ("duplicate_relation",),
    "MissingMaterializationError": ("missing_materialization",),
    "EventCompilationError": ("warning_as_error",),
    "ContractError": ("contract_violation",),
    "ContractBreakingChangeError": ("contract_breaking_change",),
    "SnapshotTargetNotSnapshotTableError": ("snapshot_error",),
    "SnapshotTargetIncompleteError": ("snapshot_error",),
    "SnapshopConfigError": ("snapshot_error",),  # dbt's spelling
    "LoadAgateTableValueError": ("seed_error",),
    "LoadAgateTableNotSeedError": ("seed_error",),
    "PythonParsingError": ("python_syntax",),
    "PythonLiteralEvalError": ("python_syntax",),
    "UnicodeDecodeError": ("invalid_encoding",),
    "YamlLoadError": ("yaml_syntax",),
    "MarkedYAMLError": ("yaml_syntax",),
    "DuplicateYamlKeyError": ("yaml_syntax",),
    "YamlParseDictError": ("invalid_properties",),
    "YamlParseListError": ("invalid_properties",),
    "SchemaConfigError": ("invalid_config",),
    "ModelConfigError": ("invalid_config",),
    "TestConfigError": ("invalid_config",),
    "ConfigUpdateError": ("invalid_config",),
    "ProjectContractError": ("invalid_config",),
    "UninstalledPackagesFoundError": ("deps_not_installed",),
    "DependencyNotFoundError": ("deps_not_installed",),
    "PackageNotFoundError": ("missing_package",),
    "PackageVersionNotFoundError": ("missing_package",),
    "GitCloningError": ("package_unreachable", "missing_package"),
    "GitCheckoutError": ("package_unreachable", "missing_package"),
    "InvalidSelectorError": ("invalid_selector",),
    "DbtSelectorsError": ("invalid_selector",),
    "FailFastError": ("fail_fast",),
    "DbtUsageException": ("unknown_option", "unknown_command", "invalid_vars", "no_project", "usage_error"),
    # set by classify_text for an exit code
    "CommandNotFound": ("dbt_not_found",),
    "ProcessKilled": ("process_killed",),
    # of dbt-relay, Celery and Python
    "DbtUsageError": ("usage_error",),
    "KeyboardInterrupt": ("cancelled",),
    "DbtCancelledError": ("cancelled",),
    "TaskRevokedError": ("cancelled",),
    "SoftTimeLimitExceeded": ("time_limit",),
    "TimeLimitExceeded": ("time_limit",),
    "TimeLimitError": ("time_limit",),
    "WorkerLostError": ("worker_lost",),
    "BrokerUnavailableError": ("broker_unavailable",),
    "InvalidMessageError": ("invalid_message",),
    "MemoryError": ("out_of_memory",),
}
"""Exception class → codes. Of several codes, the first one whose rule matches the text counts, else the last one."""

DBT_RULES: Final = make_rules(
    ("test_failed", r"^(?P<found>Got \d+ results?, configured to .*)"),
    ("unit_test_failed", r"^actual differs from expected:"),
    ("batches_failed", r"PARTIAL SUCCESS \((?P<done>\d+)/(?P<total>\d+)\)"),
    ("disabled_ref", r"depends on a node named '(?P<name>[^']+)'.* which is disabled"),
    ("missing_source", r"depends on a source named '(?P<name>[^']+)'"),
    ("missing_ref", (r"depends on a (?P<what>\w+) named '(?P<name>[^']+)'"
                    r"(?: with version '(?P<version>[^']+)')?.* which was not found")),
    ("missing_ref", r"Unable to find model '(?:\w+\.)?(?P<name>\w+)' for unit test '[^']+' in (?P<file>\S+)"),
    ("missing_doc", r"depends on doc '(?P<name>[^']+)'"),
    ("private_ref", (r"attempted to reference node (?P<name>\S+),\s+which is not allowed because the "
                    r"referenced node is (?P<access>\w+) to (?P<scope>the .*?)\.?$")),
    ("hidden_dependency", (r"dbt was unable to infer all dependencies for the model"
                          r"[\s\S]*?-- depends_on: (?P<hint>.*)")),
    ("undefined_variable", r"Required var '(?P<name>[^']+)' not found in config"),
    ("env_var_missing", r"Env var required but not provided: '(?P<name>[^']+)'"),
    ("env_var_not_sent", (r"env_var: the caller of this run has a value that was not sent to the worker: (?P<name>[^.]+)\. "
                          r"(?P<remedy>.*)")),
    ("secret_env_var", r"Secret env vars are allowed only in .*? Found '(?P<name>[^']+)'"),
    ("snapshot_error", r"strategy macro '(?P<strategy>[^']+)' was not found"),
    ("snapshot_error", (r"(?:Snapshot target is missing configured columns \(missing (?P<missing>.*?)\)"
                       r"|Snapshot target is not a snapshot table|A snapshot configured with the)")),
    ("undefined_macro", r"'(?P<name>[^']+)' is undefined"),
    ("undefined_macro", r"could not find a macro with the name ['\"](?P<name>[^'\"]+)['\"]"),
    ("undefined_macro", r"No macro named '(?P<name>[^']+)' found"),
    ("undefined_attribute", r"'(?P<owner>[^']+)' has no attribute '(?P<name>[^']+)'"),
    ("undefined_attribute", r"^\s*(?P<owner>[\w. ]+) has no element (?P<name>.+)$"),
    ("macro_arguments", r"macro '(?:dbt_macro__)?(?P<name>\w+)' takes (?P<rule>.*)"),
    ("macro_recursion", r"maximum recursion depth exceeded"),
    ("contract_violation", r"This model has an enforced contract|Contract enforcement failed for: \((?P<file>[^)]+)\)"),
    ("contract_breaking_change", r"dbt detected a breaking change to an enforced contract"),
    ("schema_change", r"source and target schemas on this incremental model are out of sync"),
    ("test_errored", (r"Invalid column name: '(?P<column>[^']+)' in unit test fixture for '(?P<table>[^']+)'\."
                     r"\s+Accepted columns for '[^']+' are: \[(?P<candidates>[^\]]*)\]")),
    ("seed_error", r"^Row (?P<row>\d+) has \d+ values, but Table only has \d+ columns"),
    ("missing_materialization", r"No materialization '(?P<name>[^']+)' was found for adapter (?P<adapter>\w+)"),
    ("unsupported_language", r"only supports languages \[(?P<languages>[^\]]*)\]; got \"(?P<name>\w+)\""),
    ("duplicate_name", r"dbt found two \S+ with the name \"(?P<name>[^\"]+)\""),
    ("duplicate_name", r"dbt found (?:two|multiple) macros (?:with the name|named) \"(?P<name>[^\"]+)\""),
    ("duplicate_name", r"two schema\.yml entries for the same (?P<what>\w+) (?:in package \S+ )?named (?P<name>\w+)"),
    ("duplicate_relation", r"database representation \"(?P<name>.+?)\"\.?$"),
    ("warning_as_error", r"^\[WARNING\]: (?P<reason>.*)"),
    ("yaml_syntax", r"Error reading \S+: (?P<file>\S+) - [\s\S]*?Syntax error near line (?P<line>\d+)"),
    ("yaml_syntax", r"trying to read your (?P<file>profiles\.yml) file[\s\S]*?Syntax error near line (?P<line>\d+)"),
    ("yaml_syntax", r"Syntax error near line (?P<line>\d+)"),
    ("invalid_packages", r"The (?P<file>\w+\.yml) file in this project is malformed"),
    ("invalid_properties", r"schema file at (?P<file>\S+) is invalid because (?P<reason>.*?)\.?$"),
    ("invalid_properties", r"yml property file at (?P<file>\S+) is invalid because (?P<reason>.*?)\. Please"),
    ("invalid_properties", (r"^Invalid (?P<what>\w+) config given in (?:FilePath\(searched_path='(?P<folder>[^']*)', "
                           r"relative_path='(?P<file>[^']*)'.*?\)|(?P<whole>\S+)) @ .* - (?P<reason>.*)$")),
    ("invalid_profile", (r"Credentials in profile \"(?P<profile>[^\"]+)\", target \"(?P<target>[^\"]+)\" invalid: "
                        r"(?!Runtime Error)(?P<reason>.*)")),
    ("invalid_profile", r"outputs not specified in profile '(?P<profile>[^']+)'"),
    ("missing_adapter", r"Could not find adapter type (?P<name>\w+)"),
    ("invalid_config", r"at path \[(?P<path>.{0,300}?)\]: (?P<problem>.*)"),
    ("invalid_config", r"Required \"(?P<path>\w+)\" field not present in project"),
    ("invalid_config", r"does not define a required config parameter '(?P<path>\w+)'"),
    ("dbt_version_mismatch", (r"This version of dbt is not supported with the '(?P<name>[^']+)' package"
                             r"[\s\S]*?Required version of dbt for \S+ \[(?P<versions>.*?)\]")),
    ("dependency_cycle", r"Found a cycle: ?(?P<cycle>.*)"),
    ("deps_not_installed", r"dbt found (?P<count>\d+) package\(s\)\s+specified in (?P<file>\S+), but only"),
    ("deps_not_installed", r"The required package \"(?P<name>[^\"]+)\" was not found"),
    ("missing_package", r"Package (?P<name>\S+) was not found in the package index"),
    ("missing_package", (r"matching compatible version for package (?P<name>\S+)\s+Requested range: (?P<wanted>.*)"
                        r"\s+Compatible versions: (?P<versions>.*)")),
    ("missing_package", (r"No dbt_project\.yml found at expected path (?P<name>\S+?)(?:/dbt_project\.yml)?\s+"
                        r"Verify that each entry within packages\.yml")),
    ("package_unreachable", r"External connection exception occurred: .*?host='(?P<host>[^']+)'"),
    ("package_unreachable", (r"for repo (?P<name>\S+)[\s\S]*?(?:Could not resolve host|Failed to connect"
                            r"|Couldn't connect|timed out|Connection (?:refused|reset)|early EOF)")),
    ("missing_package", r"Error checking out spec=\S+ for repo (?P<name>\S+)"),
    ("no_profile", r"Could not find profile named '(?P<name>[^']+)'"),
    ("no_profile", r"no profile was specified for this dbt project"),
    ("no_target", (r"profile '(?P<profile>[^']+)' does not have a target named '(?P<name>[^']+)'\."
                  r"[^:]*:(?P<names>[\s\S]*)")),
    ("no_project", r"No dbt_project\.yml found at expected path (?P<path>\S+?)(?:/dbt_project\.yml)?$"),
    ("no_project", r"Invalid --project-dir flag\. Not a dbt project|fatal: Not a dbt project"),
    ("no_project", r"(?:'--project-dir': )?(?:Path|Directory) '(?P<path>[^']+)' does not exist"),
    ("unknown_selector", r"Could not find selector named (?P<name>\S+), expected one of \[(?P<names>.*)\]"),
    ("invalid_selector", r"'(?P<method>\w+)' is not a valid method name"),
    ("invalid_selector", r"Invalid node spec (?P<name>\S+) - (?P<problem>.*)"),
    ("invalid_selector", r"Could not read selector file data"),
    ("missing_state", r"no comparison manifest|No comparison (?:manifest|run_results|sources)"),
    ("missing_state", r"No (?:previous|current) state comparison freshness results"),
    ("missing_state", r"--state or --defer-state are required for deferral"),
    ("missing_state", r"Could not find manifest in --state path: \"(?P<path>[^\"]*)\""),
    ("incompatible_state", r"Expected a schema version of \"(?P<wanted>[^\"]*)\" in (?P<path>.+?), but found \"(?P<found>[^\"]*)\""),
    ("invalid_selector", r"Invalid (?:\w+ selector value|(?:resource_type|test type|version type) selector) \"?(?P<name>[^\s\"]*)"),
    ("invalid_selector", r"Got an invalid selector \"(?P<name>[^\"]*)\", expected one of"),
    ("missing_loaded_at", r"Could not compute freshness for source (?P<name>\w+): no 'loaded_at_field' provided"),
    ("missing_run_results", r"Could not find previous run in '(?P<path>[^']+)'"),
    ("unknown_option", r"No such option:? '?(?P<name>-[\w-]+)'?(?:.*?Did you mean(?: one of)?:? (?P<names>.*?)[?)])?"),
    ("unknown_command", r"No such command '(?P<name>[^']+)'(?:.*?Did you mean(?: one of)?:? (?P<names>.*?)\?)?"),
    ("invalid_vars", r"String '(?P<given>[\s\S]*)' is not valid YAML"),
    ("invalid_vars", r"--vars argument must be a YAML dictionary|YAML provided in the --vars argument is not valid"),
    ("usage_error", r"max_workers must be greater than 0"),
    ("usage_error", r"must be passed to (?:show|run-operation)$|are mutually exclusive arguments|: not allowed with argument "),
    ("usage_error", r"Cannot specify both a macro name and --sql|--args cannot be used with --sql"),
    ("usage_error", r"dbt will not clean the following|Can not init existing project with specified profile"),
    ("python_syntax", (r"dbt allows exactly one model defined per python file|literal_eval an arg to dbt"
                      r"|\([^\s(]{1,300}\.py, line \d+\)$")),
    ("invalid_encoding", r"'utf-8' codec can't decode"),
    ("file_access", r"\[Errno (?:1|13|30)\] (?P<problem>[\w -]+): '(?P<path>[^']+)'"),  # EPERM, EACCES, EROFS
    ("jinja_syntax", (r"expected token |Encountered unknown tag |Unexpected end of template|unexpected char "
                     r"|Reached EOF without diagnosis a close tag|unexpected EOF, expected "
                     r"|unexpected control flow end tag|Got nested tags|unexpected '.'$")),
)  # fmt: skip
"""dbt's error texts. The first rule that matches counts, so special ones stand before general ones."""

GENERAL: Final[tuple[tuple[str, str, str], ...]] = (
    ("CompilationError", "Compilation", "compilation_error"),
    ("ParsingError", "Parsing", "parsing_error"),
    ("DependencyError", "Dependency", "dependency_error"),
    ("DbtConfigError", "DBT Configuration", "invalid_config"),
    ("DbtDatabaseError", "Database", "database_error"),
    ("DbtUsageException", "Usage", "usage_error"),
    ("ValidationError", "Validation", "invalid_config"),
    ("DbtInternalError", "Internal", "internal"),
)
"""Codes of errors that no rule recognises: exception class, the word before "Error" in the text, code."""

UNCOMPILED: Final = frozenset({"Compilation", "Parsing", "Dependency", "Usage", "Validation"})
"""Kinds of dbt errors that occur before SQL reaches a database. The rules for databases do not apply to them."""
