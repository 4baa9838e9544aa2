"""The published classes that each adapter runs in its own test suite, with its changes to them.

Source: dbt-duckdb's ``tests/functional/adapter`` and dbt-postgres' ``tests/functional``. Where the package
has an unchanged subclass of a class, its name is used (`classes.published`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from dbt.tests.adapter.basic.expected_catalog import (
    base_expected_catalog,
    expected_references_catalog,
    no_stats,
)
from dbt.tests.adapter.materialized_view import files
from dbt.tests.adapter.materialized_view.changes import MaterializedViewChanges
from dbt.tests.adapter.python_model.test_python_model import m_1
from dbt.tests.util import get_model_file, set_model_file

BOTH = """
aliases.aliases: TestAliasErrors TestAliases TestSameAliasDifferentSchemas
basic.adapter_methods: TestBaseCaching
basic.base: TestSimpleMaterializations
basic.docs_generate: TestDocsGenReferences TestDocsGenerate
basic.empty: TestEmpty
basic.ephemeral: TestEphemeral
basic.generic_tests: TestGenericTests
basic.incremental: TestBaseIncrementalNotSchemaChange Testincremental
basic.singular_tests: TestSingularTests
basic.singular_tests_ephemeral: TestSingularTestsEphemeral
basic.snapshot_check_cols: TestSnapshotCheckCols
basic.snapshot_timestamp: TestSnapshotTimestamp
basic.validate_connection: TestValidateConnection
caching.caching: TestCachingLowerCaseModel TestCachingSelectedSchemaOnly
constraints.constraints: TestIncrementalConstraintsColumnsEqual TestIncrementalConstraintsRollback
constraints.constraints: TestIncrementalConstraintsRuntimeDdlEnforcement TestModelConstraintsRuntimeEnforcement
constraints.constraints: TestTableConstraintsColumnsEqual TestTableConstraintsRollback
constraints.constraints: TestTableConstraintsRuntimeDdlEnforcement TestViewConstraintsColumnsEqual
empty.empty: TestEmpty
ephemeral.ephemeral: TestEphemeralErrorHandling TestEphemeralMulti TestEphemeralNested
incremental.incremental_microbatch: BaseMicrobatch
incremental.incremental_on_schema_change: TestIncrementalOnSchemaChange
incremental.incremental_predicates: TestIncrementalPredicatesDeleteInsert
incremental.incremental_unique_id: TestIncrementalUniqueKey
persist_docs.persist_docs: TestPersistDocs TestPersistDocsColumnMissing TestPersistDocsCommentOnQuotedColumn
relations.changing_relation_type: TestChangeRelationTypes
simple_snapshot.snapshot: TestSnapshot TestSnapshotCheck
store_test_failures_tests.store_test_failures: TestStoreTestFailures
unit_testing.case_insensitivity: TestPosgresUnitTestCaseInsensitivity
unit_testing.invalid_input: TestPostgresUnitTestInvalidInput
unit_testing.types: TestPostgresUnitTestingTypes
utils.any_value: TestAnyValue
utils.array_append: TestArrayAppend
utils.array_concat: TestArrayConcat
utils.array_construct: TestArrayConstruct
utils.bool_or: TestBoolOr
utils.cast_bool_to_text: TestCastBoolToText
utils.concat: TestConcat
utils.date_trunc: TestDateTrunc
utils.dateadd: TestDateAdd
utils.datediff: TestDateDiff
utils.escape_single_quotes: TestEscapeSingleQuotes
utils.except: TestExcept
utils.hash: TestHash
utils.intersect: TestIntersect
utils.last_day: TestLastDay
utils.length: TestLength
utils.listagg: TestListagg
utils.position: TestPosition
utils.replace: TestReplace
utils.right: TestRight
utils.safe_cast: TestSafeCast
utils.split_part: TestSplitPart
utils.string_literal: TestStringLiteral
"""

DUCKDB_ALONE = """
concurrency.concurrency: TestConcurenncy
empty.empty: BaseTestEmptyInlineSourceRef
python_model.python_model: BasePythonIncrementalTests BasePythonModelTests
utils.current_timestamp: BaseCurrentTimestampNaive
"""

POSTGRES_ALONE = """
aliases.aliases: TestSameAliasDifferentDatabases
basic.incremental: BaseIncrementalBadStrategy
basic.table_materialization: TestTableMat
caching.caching: TestCachingUppercaseModel TestNoPopulateCache
column_types.column_types: TestPostgresColumnTypes
concurrency.concurrency: TestConcurenncy
constraints.constraints: TestConstraintQuotedColumn TestIncrementalContractSqlHeader
constraints.constraints: TestIncrementalForeignKeyConstraint TestTableContractSqlHeader
dbt_clone.dbt_clone: BaseCloneNotPossible TestCloneSameTargetAndState TestPostgresCloneNotPossible
dbt_debug.dbt_debug: TestDebugInvalidProjectPostgres TestDebugPostgres
dbt_show.dbt_show: TestPostgresShowLimit TestPostgresShowSqlHeader TestShowDoesNotHandleDoubleLimit
empty.empty: BaseTestEmptySeedFlag
functions.udfs: DeterministicUDF ErrorForUnsupportedType NonDeterministicUDF StableUDF UDFsBasic
grants.incremental_grants: TestIncrementalGrants
grants.invalid_grants: TestInvalidGrants
grants.model_grants: TestModelGrants
grants.seed_grants: TestSeedGrants
grants.snapshot_grants: TestSnapshotGrants
hooks.model_hooks: TestDuplicateHooksInConfigs TestHookRefs TestHooksRefsOnSeeds TestPrePostModelHooks
hooks.model_hooks: TestPrePostModelHooksInConfig TestPrePostModelHooksInConfigKwargs
hooks.model_hooks: TestPrePostModelHooksInConfigWithCount TestPrePostModelHooksOnSeeds
hooks.model_hooks: TestPrePostModelHooksOnSeedsPlusPrefixed
hooks.model_hooks: TestPrePostModelHooksOnSeedsPlusPrefixedWhitespace TestPrePostModelHooksOnSnapshots
hooks.model_hooks: TestPrePostModelHooksUnderscores TestPrePostSnapshotHooksInConfigKwargs
hooks.run_hooks: TestAfterRunHooks TestPrePostRunHooks
incremental.incremental_merge_exclude_columns: BaseMergeExcludeColumns
incremental.incremental_predicates: TestPredicatesDeleteInsert
materialized_view.basic: MaterializedViewBasic
materialized_view.changes: MaterializedViewChangesApplyMixin MaterializedViewChangesContinueMixin
materialized_view.changes: MaterializedViewChangesFailMixin
persist_docs.persist_docs: TestPersistDocsAllColumnsMissing TestPersistDocsQuotedColumnCaseSensitive
query_comment.query_comment: TestEmptyQueryComments TestMacroArgsQueryComments
query_comment.query_comment: TestMacroInvalidQueryComments TestMacroQueryComments TestNullQueryComments
query_comment.query_comment: TestQueryComments
relations.dropping_schema_named: TestDropSchemaNamed
sample_mode.sample_mode: BaseSampleModeTest
simple_copy.copy_uppercase: TestSimpleCopyUppercase
simple_copy.simple_copy: TestEmptyModelsArentRun TestSimpleCopyBase
simple_seed.seed: TestBasicSeedTests TestEmptySeed TestSeedConfigFullRefreshOff TestSeedConfigFullRefreshOn
simple_seed.seed: TestSeedCustomSchema TestSeedParsing TestSeedSpecificFormats TestSeedWithEmptyDelimiter
simple_seed.seed: TestSeedWithUniqueDelimiter TestSeedWithWrongDelimiter TestSimpleSeedEnabledViaConfig
simple_seed.seed: TestSimpleSeedWithBOM
simple_seed.seed_type_override: TestSimpleSeedColumnOverride
simple_snapshot.ephemeral_snapshot_hard_deletes: BaseSnapshotEphemeralHardDeletes
simple_snapshot.new_record_check_mode: BaseSnapshotNewRecordCheckMode
simple_snapshot.new_record_dbt_valid_to_current: BaseSnapshotNewRecordDbtValidToCurrent
simple_snapshot.new_record_timestamp_mode: BaseSnapshotNewRecordTimestampMode
simple_snapshot.various_configs: BaseSnapshotColumnNames BaseSnapshotColumnNamesFromDbtProject
simple_snapshot.various_configs: BaseSnapshotDbtValidToCurrent BaseSnapshotInvalidColumnNames
simple_snapshot.various_configs: BaseSnapshotMultiUniqueKey
store_test_failures_tests.basic: StoreTestFailuresAsExceptions StoreTestFailuresAsGeneric
store_test_failures_tests.basic: StoreTestFailuresAsInteractions StoreTestFailuresAsProjectLevelEphemeral
store_test_failures_tests.basic: StoreTestFailuresAsProjectLevelOff StoreTestFailuresAsProjectLevelView
store_test_failures_tests.store_test_failures: TestStoreTestFailuresLimit
unit_testing.quoted_reserved_word_column_names: BaseUnitTestQuotedReservedWordColumnNames
unit_testing.types: BaseUnitTestingVarcharFixtureNoTruncation
utils.cast: TestCast
utils.current_timestamp: TestCurrentTimestamp
utils.data_types.type_bigint: TestTypeBigInt
utils.data_types.type_boolean: TestTypeBoolean
utils.data_types.type_float: TestTypeFloat
utils.data_types.type_int: TestTypeInt
utils.data_types.type_numeric: TestTypeNumeric
utils.data_types.type_string: TestTypeString
utils.data_types.type_timestamp: TestTypeTimestamp
utils.date: TestDate
utils.date_spine: TestDateSpine
utils.equals: TestEquals
utils.generate_series: TestGenerateSeries
utils.get_intervals_between: TestGetIntervalsBetween
utils.get_powers_of_two: TestGetPowersOfTwo
utils.null_compare: TestMixedNullCompare TestNullCompare
utils.source_freshness_custom_info: TestCalculateFreshnessMethod
utils.timestamps: TestCurrentTimestamps
utils.validate_sql: TestValidateSqlMethod
"""


def names(*lists: str) -> set[str]:
    """Parse lines ``module: Class Class`` to ``module.Class`` names."""
    lines = (line.split(": ") for text in lists for line in text.strip().splitlines())
    return {f"{module}.{name}" for module, classes in lines for name in classes.split()}


def _fixture(value: Any, scope: str = "class") -> Callable[..., Any]:
    @pytest.fixture(scope=scope)
    def given(self: Any) -> Any:
        return value

    return given


class _CatalogTypes:
    """Names of DuckDB's types in a catalog."""

    types: ClassVar[dict[str, Any]] = {
        "role": None, "id_type": "INTEGER", "text_type": "VARCHAR", "time_type": "TIMESTAMP",
        "view_type": "VIEW", "table_type": "BASE TABLE", "model_stats": no_stats(),
    }  # fmt: skip


class _Catalog(_CatalogTypes):
    @pytest.fixture(scope="class")
    def expected_catalog(self, project: Any) -> Any:
        return base_expected_catalog(project, **self.types)


class _ReferencesCatalog(_CatalogTypes):
    @pytest.fixture(scope="class")
    def expected_catalog(self, project: Any) -> Any:
        return expected_references_catalog(project, **self.types, bigint_type="BIGINT")


class _ColumnTypes:
    """Column types of contracts on DuckDB: value, type in the contract, type in the message."""

    string_type = _fixture("VARCHAR", "function")
    int_type = _fixture("INT", "function")
    data_types = _fixture(
        [
            ["1", "int", "INT"],
            ["'1'", "VARCHAR", "VARCHAR"],
            ["true", "bool", "BOOL"],
            ["'2013-11-03 00:00:00-07'::timestamp", "TIMESTAMP", "TIMESTAMP"],
            ["ARRAY[1,2,3]", "INTEGER[]", "INTEGER[]"],
            ["'1'::numeric", "numeric", "DECIMAL"],
        ],
        "function",
    )


class _NotNull(_ColumnTypes):
    expected_error_messages = _fixture(["NOT NULL constraint failed"])


class _UnitTestTypes:
    data_types = _fixture(
        [
            ["1", "1"],
            ["2.0", "2.0"],
            ["'12345'", "12345"],
            ["'string'", "string"],
            ["true", "true"],
            ["DATE '2020-01-02'", "2020-01-02"],
            ["TIMESTAMP '2013-11-03 00:00:00-0'", "2013-11-03 00:00:00-0"],
            ["ARRAY['a','b','c']", "['a','b','c']"],
        ],
        "function",
    )


class _BatchTimes:
    """DuckDB's timestamps have no time zone, and it deletes and inserts where it has no MERGE."""

    input_model_sql = _fixture(
        "{{ config(materialized='table', event_time='event_time') }}"
        " select id, timestamp '2020-01-01' + to_days(id - 1) as event_time from range(1, 4) as days(id)"
    )
    microbatch_model_sql = _fixture(
        "{{ config(materialized='incremental', incremental_strategy='microbatch', event_time='event_time',"
        " batch_size='day', begin='2020-01-01') }} select * from {{ ref('input_model') }}"
    )

    @pytest.fixture(scope="class")
    def insert_two_rows_sql(self, project: Any) -> str:
        return (
            f'insert into "{project.test_schema}".input_model'
            " values (4, timestamp '2020-01-04'), (5, timestamp '2020-01-05')"
        )


class _PythonIncrement:
    project_config_update = _fixture({"models": {"+incremental_strategy": "delete+insert"}})
    models = _fixture(
        {
            "m_1.sql": m_1,
            "incremental.py": (
                "def model(dbt, session):\n"
                "    dbt.config(materialized='incremental', unique_key='id')\n"
                "    rows = dbt.ref('m_1')\n"
                "    return rows.filter('id > 5') if dbt.is_incremental else rows\n"
            ),
        }
    )


class _BesideItsData:
    @pytest.fixture(scope="class")
    def project(self, project: Any, package_folder: Any) -> Any:
        project.test_dir = package_folder
        return project


class _MixedCaseDatabase:
    @pytest.fixture(scope="class")
    def dbt_profile_target(self, postgres_target: dict[str, Any]) -> dict[str, Any]:
        return {**postgres_target, "dbname": "dbtMixedCase"}


class _MaterializedViews:
    """Queries about materialized views on Postgres."""

    view = "{{ config(materialized='materialized_view', indexes=[{'columns': ['id']}]) }} select * from {{ ref('my_seed') }}"

    @pytest.fixture(scope="class", autouse=True)
    def models(self) -> Any:
        return {
            "my_table.sql": files.MY_TABLE,
            "my_view.sql": files.MY_VIEW,
            "my_materialized_view.sql": self.view,
        }

    @staticmethod
    def insert_record(project: Any, table: Any, record: tuple[int, int]) -> None:
        project.run_sql(f"insert into {table} (id, value) values {record}")

    @staticmethod
    def refresh_materialized_view(project: Any, materialized_view: Any) -> None:
        project.run_sql(f"refresh materialized view {materialized_view}")

    @staticmethod
    def query_row_count(project: Any, relation: Any) -> int:
        return int(project.run_sql(f"select count(*) from {relation}", fetch="one")[0])

    @staticmethod
    def query_relation_type(project: Any, relation: Any) -> str | None:
        kinds = {"r": "table", "v": "view", "m": "materialized_view"}
        found = project.run_sql(
            f"select relkind from pg_class where oid = '{relation}'::regclass", fetch="one"
        )
        return kinds[found[0]] if found else None


class _ViewChanges(_MaterializedViews, MaterializedViewChanges):
    # dbt-postgres supports no change that needs a new view
    test_change_is_applied_via_replace = None
    test_change_is_not_applied_via_replace = None

    @staticmethod
    def check_start_state(project: Any, materialized_view: Any) -> None:
        assert _indexed(project, materialized_view) == ["id"]

    @staticmethod
    def change_config_via_alter(project: Any, materialized_view: Any) -> None:
        model = get_model_file(project, materialized_view).replace("['id']", "['value']")
        set_model_file(project, materialized_view, model)

    @staticmethod
    def check_state_alter_change_is_applied(project: Any, materialized_view: Any) -> None:
        assert _indexed(project, materialized_view) == ["value"]


def _indexed(project: Any, relation: Any) -> list[str]:
    sql = f"""select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indexrelid
              where i.indrelid = '{relation}'::regclass order by 1"""
    return [row[0] for row in project.run_sql(sql, fetch="all")]


DUCKDB_CHANGES: dict[str, type] = {
    "basic.docs_generate.TestDocsGenerate": _Catalog,
    "basic.docs_generate.TestDocsGenReferences": _ReferencesCatalog,
    "constraints.constraints.TestTableConstraintsColumnsEqual": _ColumnTypes,
    "constraints.constraints.TestViewConstraintsColumnsEqual": _ColumnTypes,
    "constraints.constraints.TestIncrementalConstraintsColumnsEqual": _ColumnTypes,
    "constraints.constraints.TestTableConstraintsRuntimeDdlEnforcement": _ColumnTypes,
    "constraints.constraints.TestTableConstraintsRollback": _NotNull,
    "constraints.constraints.TestIncrementalConstraintsRuntimeDdlEnforcement": _NotNull,
    "constraints.constraints.TestIncrementalConstraintsRollback": _NotNull,
    "constraints.constraints.TestModelConstraintsRuntimeEnforcement": _NotNull,
    "incremental.incremental_microbatch.BaseMicrobatch": _BatchTimes,
    "python_model.python_model.BasePythonIncrementalTests": _PythonIncrement,
    "unit_testing.types.TestPostgresUnitTestingTypes": _UnitTestTypes,
}
POSTGRES_CHANGES: dict[str, type] = {
    "simple_copy.copy_uppercase.TestSimpleCopyUppercase": _MixedCaseDatabase,
    "simple_seed.seed.TestSimpleSeedWithBOM": _BesideItsData,
    "materialized_view.basic.MaterializedViewBasic": _MaterializedViews,
    "materialized_view.changes.MaterializedViewChangesApplyMixin": _ViewChanges,
    "materialized_view.changes.MaterializedViewChangesContinueMixin": _ViewChanges,
    "materialized_view.changes.MaterializedViewChangesFailMixin": _ViewChanges,
}
