-- depends_on: {{ ref('last') }}
{{ may_fail('singular_test', "select 1 as one from (select count(*) as rows_seen from " ~ ref('last') ~ ") counted where rows_seen = 0") }}
