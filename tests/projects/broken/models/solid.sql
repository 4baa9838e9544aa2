{{ config(materialized='table') }}
-- depends_on: {{ ref('staging') }}
{{ may_fail('table', "select number, number * 10 as tenfold from " ~ ref('staging')) }}
